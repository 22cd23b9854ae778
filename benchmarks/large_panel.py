"""A panel larger than what it is trained in: 10^8 rows from parquet to a map on disk, 200 steps trained from there.

Target: under 2 GB resident beside the map, from the first byte read to the registered bundle. Resident beside the map is the
anonymous memory of the process (`RssAnon`): pages of mapped files are the kernel's to take back. The same command runs a
second time, for what it costs when the map is there; and the build is killed once in the middle and goes on.

usage: benchmarks/large_panel.py [--series 100000] [--rows 1000] [--steps 200] [--name large_panel]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reporting import machine, write_results
from waves import write_waves

ROOT = Path(__file__).resolve().parents[1]
LIMIT_BYTES = 2e9
SERIES_PER_FILE = 10_000
TRAIN = ("fit.val_check_steps=100", "model.context_length=96", "model.horizon=24", "tracking.register=false")


def memory(pid: int) -> dict[str, int]:
    """Anonymous and file-backed resident bytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {name: int(value) * 1024 for name, value in values.items()}


def train(folder: Path, name: str, steps: int, kill_at_part: int | None = None) -> dict[str, Any]:
    """`gradcast train` on the folder, its memory looked at ten times a second; killed outright when so many parts are mapped."""
    command = [sys.executable, "-P", "-m", "training", "train", "--data", str(folder / "in"), "--max-steps", str(steps), "--json",
               "--output", str(folder / name), *(word for pair in TRAIN for word in ("--set", pair))]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    began, peak = time.perf_counter(), {"RssAnon": 0, "RssFile": 0}
    with (folder / f"{name}.json").open("w") as answer:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=answer)
        while process.poll() is None:
            time.sleep(0.1)
            try:
                peak = {key: max(value, memory(process.pid).get(key, 0)) for key, value in peak.items()}
            except OSError:
                continue
            if kill_at_part is not None and num_parts(folder) >= kill_at_part:
                process.send_signal(signal.SIGKILL)
                process.wait()
    if kill_at_part is None and process.returncode not in (0, 4):
        raise SystemExit("the training failed")
    timing = json.loads((folder / f"{name}.json").read_text())["timing"] if kill_at_part is None else {}
    return {"seconds": time.perf_counter() - began, "peak": peak, "timing": timing}


def num_parts(folder: Path) -> int:
    """Parts that are mapped so far."""
    for path in (folder / "cache" / "gradcast" / "panels").glob("*/progress.json"):
        return len(json.loads(path.read_text())["parts"])
    return 0


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--name", default="large_panel", help="name of the result files")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gradcast-large-"))
    try:
        return compare(folder, arguments)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, arguments: argparse.Namespace) -> int:
    """Kill a build, let it go on and train, train again from the map."""
    write_waves(folder / "in", arguments.series, arguments.rows, SERIES_PER_FILE)
    killed = train(folder, "killed", arguments.steps, kill_at_part=arguments.series * arguments.rows // 2_000_000 // 2)
    first = train(folder, "first", arguments.steps)
    second = train(folder, "second", arguments.steps)
    mebibytes = sum(path.stat().st_size for path in (folder / "in").glob("*.parquet")) / 2**20
    mapped = sum(path.stat().st_size for path in folder.glob("cache/gradcast/panels/*/*")) / 2**20
    rows = [
        f"| {name} | {run['seconds']:.0f} | {run['timing'].get('prepare_seconds', float('nan')):.0f} "
        f"| {run['peak']['RssAnon'] / 2**20:,.0f} | {run['peak']['RssFile'] / 2**20:,.0f} |"
        for name, run in (("build killed in the middle", killed), ("gone on, and trained", first), ("trained again", second))
    ]
    table = f"""{arguments.series:,} series x {arguments.rows:,} rows, {mebibytes:,.0f} MiB of parquet, a map of
{mapped:,.0f} MiB;
{arguments.steps} steps, backtest and bundle with the default network at context 96.

| | seconds in all | of them preparing | peak resident beside the map, MiB | peak of mapped pages, MiB |
|---|---|---|---|---|
{chr(10).join(rows)}

Limit beside the map: {LIMIT_BYTES / 2**20:,.0f} MiB.
"""
    write_results(arguments.name, table, {"machine": machine(), "killed": killed, "first": first, "second": second})
    return int(max(run["peak"]["RssAnon"] for run in (killed, first, second)) > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
