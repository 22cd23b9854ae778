"""Preparing a panel of 10,000 series x 1,000 rows from parquet, beside pandas' reading time and what other libraries need.

Targets: under 3x pandas' reading time; peak memory under 3x the float32 size of the panel plus pandas' own frame; at least 5x
faster than the fastest other library (`prepare_peer.py`; those whose environments `setup_peers.sh` made).

Both run in processes of their own, in turn, so that neither profits from the other's memory or caches; the file is read
once before, so that both find it in the page cache. Memory is the growth of the peak resident set over the imports.

usage: benchmarks/prepare_panel.py [--series 10000] [--rows 1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from prepare_peer import PEERS

HERE = Path(__file__).resolve().parent
DATA = HERE / ".data"
TARGET_PEERS = 5


def write_panel(path: Path, num_series: int, num_rows: int) -> None:
    """Write a long parquet file of hourly series (columns unique_id, ds, y)."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    hours = pd.date_range("2024-01-01", periods=num_rows, freq="h")
    names = [f"series_{number:05d}" for number in range(num_series)]
    frame = pd.DataFrame(
        {
            "unique_id": pd.Categorical.from_codes(np.repeat(np.arange(num_series), num_rows), names).astype("str"),
            "ds": np.tile(hours, num_series),
            "y": random.standard_normal(num_series * num_rows).cumsum() / 100,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False)


def reset_peak() -> int:
    """Make the peak resident set of this process start anew, where Linux allows it.

    Returns:
        Bytes resident now.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """Peak resident set of this process; `ru_maxrss` would also count the parent before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(what: str, path: Path) -> None:
    """Do one of the two jobs and print its seconds and bytes as JSON."""
    import pandas as pd

    if what == "gradcast":
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from training.config import DataConfig
        from training.data.panel import load_panel

        warm = DATA / "warm.parquet"
        load_panel(DataConfig(path=str(warm)), horizon=24)
    else:
        pd.read_parquet(DATA / "warm.parquet")
    before, started, used = reset_peak(), time.perf_counter(), time.process_time()
    if what == "gradcast":
        panel = load_panel(DataConfig(path=str(path)), horizon=24)
        seconds, processor_seconds, after = time.perf_counter() - started, time.process_time() - used, peak_bytes()
        details = {"num_series": len(panel.ids), "num_rows": len(panel.values)}
    else:
        frame = pd.read_parquet(path)
        seconds, processor_seconds, after = time.perf_counter() - started, time.process_time() - used, peak_bytes()
        details = {"num_rows": len(frame), "frame_bytes": int(frame.memory_usage(deep=True).sum())}
    print(json.dumps({"seconds": seconds, "processor_seconds": processor_seconds, "grown_bytes": after - before} | details))


def run(what: str, path: Path) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, "--path", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{what} failed:\n{result.stderr}")
    return dict(json.loads(result.stdout.splitlines()[-1]))


def find_peers() -> list[str]:
    """Libraries whose environments are there."""
    return sorted(path.parent.parent.name for path in (HERE / ".peers").glob("*/bin/python") if path.parent.parent.name in PEERS)


def run_peer(library: str, path: Path) -> dict[str, float]:
    """One preparation by another library, in its own environment."""
    command = [str(HERE / ".peers" / library / "bin" / "python"), str(HERE / "prepare_peer.py"), library, str(path)]
    result = subprocess.run([*command, str(DATA / "warm.parquet")], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{library} failed:\n{result.stderr[-3000:]}")
    return dict(json.loads(result.stdout.splitlines()[-1]))


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("pandas", "gradcast"), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.path)
        return 0
    from reporting import machine, write_results

    path = DATA / f"panel_{arguments.series}x{arguments.rows}.parquet"
    if not path.exists():
        write_panel(path, arguments.series, arguments.rows)
    write_panel(DATA / "warm.parquet", 3, 200)
    path.read_bytes()
    peers = find_peers()
    contestants = ("pandas", "gradcast", *peers)
    rounds = [
        {what: run_peer(what, path) if what in peers else run(what, path) for what in contestants}
        for _ in range(arguments.rounds)
    ]
    seconds, used = (
        {what: statistics.median(entry[what][key] for entry in rounds) for what in contestants}
        for key in ("seconds", "processor_seconds")
    )
    grown = {what: statistics.median(entry[what]["grown_bytes"] for entry in rounds) for what in ("pandas", "gradcast")}
    float32_bytes = 4 * arguments.series * arguments.rows
    frame_bytes = rounds[0]["pandas"]["frame_bytes"]
    time_ratio, allowed = seconds["gradcast"] / seconds["pandas"], 3 * float32_bytes + frame_bytes
    table = f"""{arguments.series:,} series x {arguments.rows:,} rows, parquet of {path.stat().st_size / 2**20:.0f} MiB

| | seconds | peak memory over imports, MiB |
|---|---|---|
| pandas.read_parquet | {seconds["pandas"]:.2f} | {grown["pandas"] / 2**20:.0f} (its frame: {frame_bytes / 2**20:.0f}) |
| gradcast panel | {seconds["gradcast"]:.2f} | {grown["gradcast"] / 2**20:.0f} |
| ratio or limit | {time_ratio:.2f} (limit 3) | {allowed / 2**20:.0f} (limit: 3x float32 + the frame) |
"""
    fastest = min((seconds[what] for what in peers), default=float("inf"))
    if peers:
        rows = [
            f"| {what} | {seconds[what]:.2f} | {seconds[what] / seconds['gradcast']:.1f} "
            f"| {used[what]:.2f} | {used[what] / used['gradcast']:.1f} |"
            for what in ("gradcast", *peers)
        ]
        table += f"""
From the same file to what the first training step reads, imports not counted (target: the fastest at least {TARGET_PEERS}x):

| | seconds | of gradcast's | processor seconds | of gradcast's |
|---|---|---|---|---|
{chr(10).join(rows)}
"""
    write_results(
        "prepare_panel",
        table,
        {"machine": machine(), "rounds": rounds, "time_ratio": time_ratio, "allowed_bytes": allowed},
    )
    is_faster = fastest >= TARGET_PEERS * seconds["gradcast"]
    return int(time_ratio > 3 or grown["gradcast"] > allowed or not is_faster)


if __name__ == "__main__":
    sys.exit(main())
