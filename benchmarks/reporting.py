"""Where results go, and what machine they are from."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """What the reader of a figure must know about the machine; no names, no paths."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    return {
        "date": time.strftime("%Y-%m-%d"),
        "system": platform.system(),
        "processor": processor,
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "pandas", "pyarrow", "mlflow")},
    }


def write_results(name: str, table: str, document: dict[str, Any], is_quiet: bool = False) -> None:
    """Print the table, unless quiet; write `results/<name>.md` and `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    described = document["machine"]
    versions = ", ".join(f"{package} {number}" for package, number in described["versions"].items())
    hardware = f"{described['num_cores']} cores of {described['processor']}"
    footer = f"\n{described['date']}, {hardware}, Python {described['python']}, {versions}\n"
    if not is_quiet:
        print(table + footer)
    (RESULTS / f"{name}.md").write_text(f"# {name}\n\n{table}{footer}", encoding="utf-8")
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
