"""What every test shares: one thread per process and no network store by accident."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return REPOSITORY


@dataclass(frozen=True)
class FaultLedger:
    """What a fault cost. `benchmarks/reliability.py` names a file, and makes its table of what the tests wrote there."""

    path: str | None

    def record(self, fault: str, lost: int, doubled: int, seconds: float) -> None:
        """Write one trial down, then insist that it cost nothing.

        Args:
            fault: Row of the table.
            lost: Things that were acknowledged and are gone.
            doubled: Things that are there more often than they were made.
            seconds: From the fault, or the way back being open again, to everything being there.
        """
        if self.path is not None:
            row = {"fault": fault, "lost": lost, "doubled": doubled, "seconds": round(seconds, 3)}
            with Path(self.path).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        assert (lost, doubled) == (0, 0), f"{fault}: {lost} lost, {doubled} doubled"


@pytest.fixture(scope="session")
def ledger() -> FaultLedger:
    """Where fault tests report."""
    return FaultLedger(os.environ.get("GRADCAST_FAULT_LEDGER"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser with a fresh profile; skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _no_tracking_uri_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracking server named in the developer's shell must never receive the runs of a test."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
