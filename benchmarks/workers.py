"""One fit with all cores, as threads and as processes, against one thread and against the bare loop, interleaved.

Targets on two cores, geometric means over the cells: two processes at least 1.7x one process with one thread each; the
better of threads and processes at least 2.2x the bare loop on the default allocator with one thread. The bare loop
with all cores is in the table too: whoever has it gains nothing from a slow team.

The first seconds of every run are not counted: while MLflow is imported in the process that sends the metrics, a second
core is not there for the fit.

usage: benchmarks/workers.py [--rounds 3] [--workers 2] [--seconds 10] [--cells 1x64x96,2x64x336] [--name workers]
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

from fit_speed import CELLS, Cell
from reporting import machine, write_results

SCRIPTS = Path(__file__).resolve().parent / "fit_workers"
TARGET_ONE_PROCESS, TARGET_BARE = 1.7, 2.2
BARE, BARE_THREADS, ONE, THREADS = "bare loop, one thread", "bare loop, all cores", "one process", "one process, all cores"

Repetitions = dict[str, list[dict[str, Any]]]
"""What every contestant did in every round, of one cell."""


def run(script: str, cell: Cell, arguments: argparse.Namespace, threads: int, workers: int) -> dict[str, Any]:
    """One repetition in a process of its own, which starts the others."""
    command = [
        sys.executable, str(SCRIPTS / f"worker_{script}.py"), f"--seconds={arguments.warm_up + arguments.seconds}",
        f"--warm-up-seconds={arguments.warm_up}",
        f"--threads={threads}", f"--workers={workers}", f"--context-length={cell.context_length}",
        f"--hidden-size={cell.hidden_size}", f"--num-layers={cell.num_layers}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, env=environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if result.returncode or not lines:
        raise SystemExit(f"{script} failed:\n{result.stderr[-3000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def ratio(results: Repetitions, name: str, base: str) -> float:
    """Median over rounds of one contestant's speed by another's."""
    pairs = zip(results[name], results[base], strict=True)
    return statistics.median(a["windows_per_second"] / b["windows_per_second"] for a, b in pairs)


def format_cell(cell: Cell, results: Repetitions) -> str:
    """A markdown table; ratios are medians over rounds."""
    lines = [
        f"## {cell.num_layers} x {cell.hidden_size} units, context {cell.context_length}",
        "",
        "| | windows/s, median | lowest .. highest | of one process | of the bare loop | processor ms per step |",
        "|---|---|---|---|---|---|",
    ]
    for name, entries in results.items():
        rates = [entry["windows_per_second"] for entry in entries]
        busy = statistics.median(entry["processor_seconds_per_step"] for entry in entries)
        lines.append(
            f"| {name} | {statistics.median(rates):.0f} | {min(rates):.0f} .. {max(rates):.0f} "
            f"| {ratio(results, name, ONE):.2f} | {ratio(results, name, BARE):.2f} | {1e3 * busy:.1f} |"
        )
    return "\n".join(lines) + "\n"


def summary(results: dict[str, Repetitions], team: str) -> tuple[str, float, float]:
    """One row a cell, and the two figures that have targets."""
    header = (f"{team} / one process", f"{team} / bare loop", f"{THREADS} / bare loop", f"{BARE_THREADS} / {BARE}")
    pairs = ((team, ONE), (team, BARE), (THREADS, BARE), (BARE_THREADS, BARE))
    table = {name: [ratio(cell, *pair) for pair in pairs] for name, cell in results.items()}
    means = [statistics.geometric_mean(column) for column in zip(*table.values(), strict=True)]
    best = statistics.geometric_mean(max(row[1], row[2]) for row in table.values())
    lines = [f"| cell | {' | '.join(header)} |", "|---|---|---|---|---|"]
    rows = [*table.items(), ("geometric mean", means)]
    lines += [f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} |" for name, row in rows]
    lines += ["", f"The better of threads and processes on every cell: {best:.2f}x the bare loop (geometric mean)."]
    return "\n".join(lines) + "\n", means[0], best


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of every run that count")
    parser.add_argument("--warm-up", type=float, default=8.0, help="seconds before them that do not")
    parser.add_argument("--cells", default=CELLS, help="comma-separated, LAYERSxUNITSxCONTEXT each")
    parser.add_argument("--name", default="workers", help="name of the result files")
    arguments = parser.parse_args()
    team = f"{arguments.workers} processes"
    contestants = {
        BARE: ("bare", 1, 1),
        BARE_THREADS: ("bare", arguments.workers, 1),
        ONE: ("gradcast", 1, 1),
        THREADS: ("gradcast", arguments.workers, 1),
        team: ("gradcast", 1, arguments.workers),
    }
    cells = {text: Cell.parse(text) for text in arguments.cells.split(",")}
    results: dict[str, Repetitions] = {text: {name: [] for name in contestants} for text in cells}
    for number in range(arguments.rounds):
        order = list(contestants)
        for text, cell in cells.items():
            for name in order[number % len(order) :] + order[: number % len(order)]:
                script, threads, workers = contestants[name]
                results[text][name].append(run(script, cell, arguments, threads, workers))
                speed = results[text][name][-1]["windows_per_second"]
                print(f"round {number + 1}  {text:<12}{name:<26}{speed:>9.0f} windows/s", file=sys.stderr, flush=True)
    job = {key: getattr(arguments, key) for key in ("rounds", "workers", "seconds", "warm_up", "cells")}
    table, of_one, of_bare = summary(results, team)
    tables = [table, *(format_cell(cell, results[text]) for text, cell in cells.items())]
    write_results(arguments.name, "\n".join(tables), {"machine": machine(), "job": job, "results": results})
    return int(not (of_one >= TARGET_ONE_PROCESS and of_bare >= TARGET_BARE))


if __name__ == "__main__":
    sys.exit(main())
