"""Training speed of one job: a bare loop, gradcast with norms and tracking on, and four libraries, interleaved.

A cell is the shape of the network, LAYERSxUNITSxCONTEXT; by default six of them. Targets: gradcast at least 1.4x the
windows/s of the bare loop with the same network on the default allocator (geometric mean over the cells), and at least
1.4x the fastest library on every cell.

usage: benchmarks/fit_speed.py [--rounds 5] [--threads 1] [--only bare,gradcast] [--cells 1x64x96,2x64x336]
Libraries whose environment is missing (benchmarks/setup_peers.sh makes them) are left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reporting import machine, write_results

HERE = Path(__file__).resolve().parent
PEERS = HERE / ".peers"
TARGET = 1.4
CELLS = "1x64x96,2x64x96,1x128x96,1x64x336,2x64x336,1x128x336"


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        label: What the table calls it.
        worker: Script in fit_workers/, without `worker_` and `.py`.
        steps: Optimizer steps of one repetition at scale 1; slow ones do fewer.
        variant: Passed to the worker.
        peer: Name of its environment below .peers/; None = this one.
    """

    label: str
    worker: str
    steps: int
    variant: str = ""
    peer: str | None = None

    @property
    def interpreter(self) -> Path:
        """Python that runs the worker."""
        return Path(sys.executable) if self.peer is None else PEERS / self.peer / "bin" / "python"


CONTESTANTS = {
    "bare": Contestant("bare loop, same network", "bare", 600),
    "bare-malloc": Contestant("bare loop, same network, allocator tuned", "bare", 600, variant="malloc"),
    "bare-linear": Contestant("bare loop, LSTM and one linear layer", "bare", 600, variant="linear"),
    "gradcast": Contestant("gradcast, norms and tracking on", "gradcast", 600),
    "gradcast-defaults": Contestant(
        "gradcast, with its scaler, quantile head and calendar", "gradcast", 600, variant="defaults"
    ),
    "darts": Contestant("darts BlockRNNModel", "darts", 400, peer="darts"),
    "neuralforecast": Contestant("neuralforecast LSTM", "neuralforecast", 150, peer="neuralforecast"),
    "neuralforecast-2": Contestant(
        "neuralforecast LSTM, 2 series per batch", "neuralforecast", 300, variant="2", peer="neuralforecast"
    ),
    "gluonts": Contestant("gluonts DeepAR", "gluonts", 250, peer="gluonts"),
    "pytorch-forecasting": Contestant(
        "pytorch-forecasting RecurrentNetwork", "pytorch_forecasting", 250, peer="pytorch-forecasting"
    ),
}


@dataclass(frozen=True)
class Cell:
    """Shape of the network of one job.

    Attributes:
        num_layers: Recurrent layers.
        hidden_size: Units of each.
        context_length: Steps of a window.
    """

    num_layers: int
    hidden_size: int
    context_length: int

    @classmethod
    def parse(cls, text: str) -> Cell:
        """The cell written as LAYERSxUNITSxCONTEXT."""
        return cls(*(int(number) for number in text.split("x")))

    @property
    def name(self) -> str:
        """LAYERSxUNITSxCONTEXT."""
        return f"{self.num_layers}x{self.hidden_size}x{self.context_length}"

    @property
    def cost(self) -> float:
        """About how many times the time of a step of 1x64x96."""
        return self.num_layers * self.hidden_size / 64 * self.context_length / 96


def run(contestant: Contestant, cell: Cell, arguments: argparse.Namespace) -> dict[str, Any]:
    """One repetition in a process of its own; dear cells do fewer steps."""
    steps = arguments.warm_up + max(60, round(contestant.steps * arguments.scale / cell.cost))
    command = [
        str(contestant.interpreter), str(HERE / "fit_workers" / f"worker_{contestant.worker}.py"),
        f"--variant={contestant.variant}", f"--steps={steps}", f"--warm-up={arguments.warm_up}",
        f"--threads={arguments.threads}", f"--context-length={cell.context_length}",
        f"--hidden-size={cell.hidden_size}", f"--num-layers={cell.num_layers}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "MKL_NUM_THREADS": str(arguments.threads)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, env=environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if result.returncode or not lines:
        raise SystemExit(f"{contestant.label} failed:\n{result.stderr[-3000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def peer_versions() -> dict[str, dict[str, str]]:
    """Version of each library and of what decides its speed, from its own environment."""
    wanted = (
        "neuralforecast",
        "darts",
        "gluonts",
        "pytorch-forecasting",
        "torch",
        "lightning",
        "pytorch-lightning",
        "pandas",
        "numpy",
    )
    return {
        file.name.removesuffix(".freeze.txt"): {
            name: number
            for line in file.read_text().splitlines()
            for name, _, number in [line.partition("==")]
            if name in wanted
        }
        for file in sorted(PEERS.glob("*.freeze.txt"))
    }


Results = dict[str, dict[str, list[dict[str, Any]]]]
"""Repetitions of every contestant of every cell."""


def ratios(cell: dict[str, list[dict[str, Any]]], name: str, other: str = "bare") -> float | None:
    """Median over the rounds of the speed of one contestant by that of another; None where one did not run."""
    pairs = zip(cell.get(name, []), cell.get(other, []), strict=False)
    found = [mine["windows_per_second"] / theirs["windows_per_second"] for mine, theirs in pairs]
    return statistics.median(found) if found else None


def speed(cell: dict[str, list[dict[str, Any]]], name: str) -> float:
    """Median windows/s of one contestant."""
    return statistics.median(entry["windows_per_second"] for entry in cell[name])


def fastest_library(cell: dict[str, list[dict[str, Any]]]) -> str | None:
    """Name of the fastest library of a cell."""
    libraries = [name for name in cell if CONTESTANTS[name].peer is not None]
    return max(libraries, key=lambda name: speed(cell, name)) if libraries else None


def format_cell(cell: Cell, results: dict[str, list[dict[str, Any]]]) -> str:
    """A markdown table, fastest first, with the ratio to the bare loop round by round."""
    lines = [
        f"## {cell.num_layers} x {cell.hidden_size} units, context {cell.context_length}",
        "",
        "| | windows/s, median | of the bare loop | lowest .. highest | peak memory MiB | imports s | data s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(results, key=lambda name: -speed(results, name)):
        rates = [entry["windows_per_second"] for entry in results[name]]
        ratio = ratios(results, name)
        memory, imports, data = (
            statistics.median(entry[key] for entry in results[name])
            for key in ("peak_memory_mib", "import_seconds", "prepare_seconds")
        )
        lines.append(
            f"| {CONTESTANTS[name].label} | {speed(results, name):.0f} | {'' if ratio is None else f'{ratio:.2f}'} "
            f"| {min(rates):.0f} .. {max(rates):.0f} | {memory:.0f} | {imports:.1f} | {data:.1f} |"
        )
    return "\n".join(lines) + "\n"


def format_summary(results: Results) -> str:
    """One row a cell: gradcast by the bare loop and by the fastest library; their geometric means."""
    lines = [
        "| cell | gradcast / bare loop | gradcast / bare loop with the same allocator | gradcast / fastest library |",
        "|---|---|---|---|",
    ]
    columns: list[list[float]] = [[], [], []]
    for name, cell in results.items():
        library = fastest_library(cell)
        row = [ratios(cell, "gradcast"), ratios(cell, "gradcast", "bare-malloc")]
        row.append(ratios(cell, "gradcast", library) if library else None)
        for column, value in zip(columns, row, strict=True):
            column.extend([value] if value is not None else [])
        shown = ["" if value is None else f"{value:.2f}" for value in row]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {shown[2]} {f'({library})' if library else ''} |")
    means = [f"{statistics.geometric_mean(column):.2f}" if column else "" for column in columns]
    lines.append(f"| geometric mean | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the steps of every repetition")
    parser.add_argument("--warm-up", type=int, default=30, help="steps not counted")
    parser.add_argument("--cells", default=CELLS, help="comma-separated, LAYERSxUNITSxCONTEXT each")
    parser.add_argument("--only", default="", help=f"comma-separated from {', '.join(CONTESTANTS)}")
    parser.add_argument("--name", default="fit_speed", help="name of the result files")
    arguments = parser.parse_args()
    cells = [Cell.parse(text) for text in arguments.cells.split(",")]
    chosen = [name for name in arguments.only.split(",") if name] or list(CONTESTANTS)
    missing = [name for name in chosen if not CONTESTANTS[name].interpreter.exists()]
    chosen = [name for name in chosen if name not in missing]
    results: Results = {cell.name: {name: [] for name in chosen} for cell in cells}
    for number in range(arguments.rounds):
        turn = number % len(chosen)
        for cell in cells:
            for name in chosen[turn:] + chosen[:turn]:
                entry = run(CONTESTANTS[name], cell, arguments)
                results[cell.name][name].append(entry)
                rate = f"{entry['windows_per_second']:>9.0f} windows/s"
                print(f"round {number + 1}  {cell.name:<12}{name:<22}{rate}", file=sys.stderr, flush=True)
    job = {key: getattr(arguments, key) for key in ("threads", "rounds", "scale", "cells")}
    tables = [format_summary(results), *(format_cell(cell, results[cell.name]) for cell in cells)]
    if missing:
        tables.append(f"Not installed, left out: {', '.join(missing)}.\n")
    document = {"machine": machine(), "job": job, "peers": peer_versions(), "results": results}
    write_results(arguments.name, "\n".join(tables), document)
    return int(not _target_met(results))


def _target_met(results: Results) -> bool:
    found = [ratio for cell in results.values() if (ratio := ratios(cell, "gradcast")) is not None]
    if not found:
        return True
    libraries = {name: fastest_library(cell) for name, cell in results.items()}
    leads = [ratios(results[name], "gradcast", library) or 0.0 for name, library in libraries.items() if library]
    return statistics.geometric_mean(found) >= TARGET and all(lead >= TARGET for lead in leads)


if __name__ == "__main__":
    sys.exit(main())
