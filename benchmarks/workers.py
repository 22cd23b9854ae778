"""One fit in several processes against the same fit in one, and against the bare loop: one thread each, interleaved.

Targets on two cores: two processes at least 1.7x one; all cores at least 2.2x the bare loop on the default allocator with
as many threads. The time that a process computes per step is given too: on a machine that others use it says what the
clock does not, namely how much of the step the team takes off one process.

usage: benchmarks/workers.py [--rounds 5] [--workers 2] [--steps 600] [--hidden-size 64] [--num-layers 1] [--name workers]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from reporting import machine, write_results

SCRIPTS = Path(__file__).resolve().parent / "fit_workers"
TARGET_ONE_PROCESS, TARGET_BARE = 1.7, 2.2


def run(script: str, arguments: argparse.Namespace, threads: int, workers: int) -> dict[str, Any]:
    """One repetition in a process of its own, which starts the others."""
    command = [
        sys.executable, str(SCRIPTS / f"worker_{script}.py"), f"--steps={arguments.steps}", f"--warm-up={arguments.warm_up}",
        f"--threads={threads}", f"--workers={workers}",
        f"--hidden-size={arguments.hidden_size}", f"--num-layers={arguments.num_layers}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, env=environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if result.returncode or not lines:
        raise SystemExit(f"{script} failed:\n{result.stderr[-3000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def ratio(results: dict[str, list[dict[str, Any]]], name: str, base: str, key: str) -> float:
    """Median over rounds of one contestant's number over another's."""
    return statistics.median(a[key] / b[key] for a, b in zip(results[name], results[base], strict=True))


def format_table(results: dict[str, list[dict[str, Any]]]) -> str:
    """A markdown table; ratios are medians over rounds."""
    speed, busy = "windows_per_second", "processor_seconds_per_step"
    lines = [
        "| | windows/s, median | lowest .. highest | of one process | of the bare loop, all cores | processor ms per step |",
        "|---|---|---|---|---|---|",
    ]
    for name, entries in results.items():
        rates = [entry[speed] for entry in entries]
        lines.append(
            f"| {name} | {statistics.median(rates):.0f} | {min(rates):.0f} .. {max(rates):.0f} "
            f"| {ratio(results, name, 'one process', speed):.2f} | {ratio(results, name, 'bare loop, all cores', speed):.2f} "
            f"| {1e3 * statistics.median(entry[busy] for entry in entries):.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--warm-up", type=int, default=30, help="steps not counted")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--name", default="workers", help="name of the result files")
    arguments = parser.parse_args()
    team = f"{arguments.workers} processes"
    contestants = {
        "bare loop, all cores": ("bare", arguments.workers, 1),
        "one process": ("gradcast", 1, 1),
        team: ("gradcast", 1, arguments.workers),
    }
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for number in range(arguments.rounds):
        order = list(contestants)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            script, threads, workers = contestants[name]
            results[name].append(run(script, arguments, threads, workers))
            speed = results[name][-1]["windows_per_second"]
            print(f"round {number + 1}  {name:<24}{speed:>9.0f} windows/s", file=sys.stderr, flush=True)
    job = {key: getattr(arguments, key) for key in ("rounds", "workers", "steps", "hidden_size", "num_layers")}
    write_results(arguments.name, format_table(results), {"machine": machine(), "job": job, "results": results})
    is_met = ratio(results, team, "one process", "windows_per_second") >= TARGET_ONE_PROCESS
    return int(not (is_met and ratio(results, team, "bare loop, all cores", "windows_per_second") >= TARGET_BARE))


if __name__ == "__main__":
    sys.exit(main())
