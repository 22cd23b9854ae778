"""Data that comes with the package, for the demo and the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

ShippedName = Literal["metro_traffic"]
_FILES: dict[ShippedName, str] = {"metro_traffic": "metro_traffic_hourly.csv.gz"}


def shipped_path(name: ShippedName = "metro_traffic") -> Path:
    """Path of a shipped data file; `ATTRIBUTION.md` beside it names source and licence."""
    return Path(__file__).parent / _FILES[name]
