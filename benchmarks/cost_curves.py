"""Cost curves: seconds per step, memory and disk against series, rows, context, hidden size, layers and workers.

Every point is a run in a process of its own: prepare, some steps, a check. Afterwards a model of costs is fitted to the
points, must predict a run larger than all of them along four axes at once (target: 35 % for every quantity), and says what
a million and a billion series would take. Writes results, and the pictures of docs/scale.md; that of workers is drawn
from the results of workers.py.

usage: benchmarks/cost_curves.py [--steps 30] [--rounds 1] [--draw]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cost_extrapolation import CostModel, bytes_per_mapped_series, check_held_out, format_scales
from cost_plots import write_pictures
from reporting import RESULTS, machine, write_results
from waves import write_waves

SCRIPTS = Path(__file__).resolve().parent / "fit_workers"
TARGET = 0.35


@dataclass(frozen=True)
class Point:
    """A panel and a network: one LSTM unless said otherwise, 64 windows per step."""

    series: int = 100
    rows: int = 1000
    context: int = 96
    hidden: int = 64
    layers: int = 1

    @property
    def name(self) -> str:
        """For file names and keys."""
        return f"{self.series}x{self.rows}-{self.context}-{self.layers}x{self.hidden}"


BASE = Point()
AXES: dict[str, tuple[int, ...]] = {
    "series": (10, 100, 1000, 3000),
    "rows": (300, 1000, 3000, 10_000),
    "context": (48, 96, 192, 336),
    "hidden": (32, 64, 128, 256),
    "layers": (1, 2, 3, 4),
}
# Series in a map on disk: what a series costs that is not in memory.
MAPPED = (1_000, 100_000)
MAPPED_ROWS = 150
HELD_OUT = Point(series=4000, rows=1500, context=336, hidden=128, layers=2)


def write_series(path: Path, point: Point) -> None:
    """Daily seasons with noise, some series at a time."""
    random, hours = np.random.default_rng(0), np.arange(point.rows)
    times = pd.date_range("2020-01-01", periods=point.rows, freq="h")
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{number:06d}" for number in range(point.series)], point.rows),
            "ds": np.tile(times, point.series),
            "y": np.tile(10 + np.sin(2 * np.pi * hours / 24), point.series)
            + 0.1 * random.standard_normal(point.series * point.rows),
        }
    )
    frame.to_parquet(path)


def measure(point: Point, data: Path, steps: int) -> dict[str, float]:
    """One run of a point."""
    sizes = [
        f"model.context_length={point.context}",
        f"model.hidden_size={point.hidden}",
        f"model.num_layers={point.layers}",
    ]
    command = [sys.executable, str(SCRIPTS / "cost_point.py"), f"--data={data}", f"--steps={steps}"]
    command += [word for size in sizes for word in ("--set", size)]
    return run(command, point.name)


def measure_mapped(num_series: int, steps: int) -> dict[str, Any]:
    """The base network on so many mapped series; the second run, which finds the map built."""
    with tempfile.TemporaryDirectory(prefix="gradcast-bench-") as place:
        write_waves(Path(place) / "waves", num_series, MAPPED_ROWS, series_per_file=20_000)
        command = [sys.executable, str(SCRIPTS / "cost_point.py"), f"--data={place}/waves", f"--steps={steps}"]
        command += ["--set", "data.storage=map", "--set", "model.context_length=96"]
        found = [run(command, f"{num_series} mapped", XDG_CACHE_HOME=f"{place}/cache") for _ in range(2)]
    return {"series": num_series, "rows": MAPPED_ROWS} | found[-1]


def run(command: list[str], name: str, **environment: str) -> dict[str, Any]:
    """What a script reports."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=1800, env=os.environ | environment
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def run_points(points: list[Point], steps: int, rounds: int) -> list[dict[str, Any]]:
    """All points, several times around; medians."""
    found: dict[Point, list[dict[str, float]]] = {point: [] for point in points}
    with tempfile.TemporaryDirectory(prefix="gradcast-bench-") as place:
        for _ in range(rounds):
            for point in points:
                data = Path(place) / f"{point.series}x{point.rows}.parquet"
                if not data.exists():
                    write_series(data, point)
                found[point].append(measure(point, data, steps))
                print(
                    point.name,
                    {key: round(value, 4) for key, value in found[point][-1].items()},
                    file=sys.stderr,
                    flush=True,
                )
    return [
        vars(point) | {key: statistics.median(entry[key] for entry in entries) for key in entries[0]}
        for point, entries in found.items()
    ]


def all_points() -> list[Point]:
    """Every axis from the base, each point once, and the held-out one at the end."""
    points = dict.fromkeys(replace(BASE, **{axis: value}) for axis, values in AXES.items() for value in values)
    return [*points, HELD_OUT]


def format_points(points: list[dict[str, Any]]) -> str:
    """A markdown table per axis."""
    base, lines = vars(BASE), []
    for axis, values in AXES.items():
        lines += [
            f"## {axis}",
            "",
            f"| {axis} | ms per step | processor ms per step | preparation, s | memory, MB | disk, MB |",
            "|---|---|---|---|---|---|",
        ]
        for value in values:
            wanted = base | {axis: value}
            point = next(entry for entry in points if all(entry[key] == each for key, each in wanted.items()))
            beside = (
                ["", "", ""]
                if "peak_bytes" not in point
                else [
                    f"{point['prepare_processor']:.1f}",
                    f"{point['peak_bytes'] / 1e6:.0f}",
                    f"{point['disk_bytes'] / 1e6:.1f}",
                ]
            )
            lines.append(
                f"| {value:,} | {point['step_clock'] * 1e3:.1f} | {point['step_processor'] * 1e3:.1f} | {' | '.join(beside)} |"
            )
        lines.append("")
    return "\n".join(lines)


def read_teams() -> dict[str, list[dict[str, float]]]:
    """Milliseconds per step of 64 windows with one process and with several, by network: from the results of `workers.py`."""
    document = json.loads((RESULTS / "workers.json").read_text(encoding="utf-8"))
    workers = document["job"]["workers"]
    return {
        name: [
            {"workers": count, "step_ms": 64e3 / statistics.median(entry["windows_per_second"] for entry in found[contestant])}
            for count, contestant in ((1, "one process"), (workers, f"{workers} processes"))
        ]
        for name, found in document["results"].items()
    }


def main() -> int:
    """Measure or read, fit, check, write; 1 if the held-out point is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--draw", action="store_true", help="texts and pictures anew, from the results that are there")
    arguments = parser.parse_args()
    if arguments.draw:
        document = json.loads((RESULTS / "cost_curves.json").read_text(encoding="utf-8"))
    else:
        points = run_points(all_points(), arguments.steps, arguments.rounds)
        job = {"steps": arguments.steps, "rounds": arguments.rounds, "batch_size": 64, "base": vars(BASE), "axes": AXES}
        mapped = [measure_mapped(count, arguments.steps) for count in MAPPED]
        document = {"machine": machine(), "job": job, "points": points[:-1], "held_out": points[-1]}
        document |= {"mapped": mapped}
    model = CostModel.fit(document["points"])
    table, worst = check_held_out(model, document["held_out"])
    bulk = json.loads((RESULTS / "bulk_forecasts.json").read_text(encoding="utf-8"))
    scales = format_scales(model, bytes_per_mapped_series(document["mapped"]), bulk)
    document["model"] = vars(model)
    text = "\n".join([format_points(document["points"]), table, scales])
    write_results("cost_curves", text, document)
    write_pictures(
        document["points"],
        read_teams(),
        AXES,
        vars(BASE),
        Path(__file__).resolve().parents[1] / "docs" / "figures",
    )
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
