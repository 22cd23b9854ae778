"""What `gradcast preflight` predicts beside what `gradcast train` then takes: seconds, resident memory, disk; six jobs.

Targets: every job within 25 % for the seconds of the fit, 20 % for the peak of resident memory and 20 % for disk (medians
over rounds). Prediction and truth follow each other at once. A machine that others keep busy stretches the clock of one
and not of the other: with --busy the target holds for processor seconds; the table has both.

usage: benchmarks/preflight_accuracy.py [--rounds 3] [--threads 1] [--jobs rnn,map] [--busy] [--name preflight_accuracy]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reporting import machine, write_results
from waves import write_waves

TARGET_TIME, TARGET_MEMORY, TARGET_DISK = 0.25, 0.20, 0.20
# Nothing may end a fit before its budget: preflight predicts the whole of it.
COMMON = {"fit.patience": None, "model.horizon": 24, "tracking.register": False}
Rounds = list[dict[str, dict[str, float]]]
Results = dict[str, Rounds]


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        series: Number of series.
        rows: Hourly rows of each.
        settings: What it sets beside what all set.
    """

    series: int
    rows: int
    settings: dict[str, Any]


JOBS = {
    "rnn": Job(1, 8000, {"model.architecture": "rnn", "model.hidden_size": 32, "model.context_length": 48,
                         "fit.batch_size": 32, "fit.max_steps": 600}),
    "gru": Job(20, 2000, {"model.architecture": "gru", "model.hidden_size": 64, "model.context_length": 96,
                          "fit.batch_size": 64, "fit.max_steps": 200}),
    "deep": Job(100, 2000, {"model.hidden_size": 128, "model.num_layers": 2, "model.context_length": 336,
                            "fit.batch_size": 64, "fit.max_steps": 40, "data.calendar": "none"}),
    "wide": Job(1, 8000, {"model.hidden_size": 256, "model.context_length": 168, "fit.batch_size": 32,
                          "fit.max_steps": 80}),
    "map": Job(2000, 1000, {"model.hidden_size": 64, "model.context_length": 96, "fit.batch_size": 128,
                            "fit.max_steps": 200, "data.storage": "map"}),
    "calendar": Job(100, 2000, {"model.hidden_size": 96, "model.num_layers": 2, "model.context_length": 168, "fit.batch_size": 64,
                                "fit.max_steps": 100, "data.test_size": 168, "gradients.preset": "full",
                                "data.calendar": ["hour_of_day", "day_of_week", "month_of_year"]}),
}  # fmt: skip


def words(job: Job, data: Path) -> list[str]:
    """The settings of a job as arguments."""
    settings = COMMON | job.settings
    pairs = (f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in settings.items())
    return [f"--data={data}", *(word for pair in pairs for word in ("--set", pair)), "--json", "--quiet"]


def call(verb: str, arguments: list[str], folder: Path, threads: int) -> tuple[dict[str, Any], int]:
    """Run a verb; its document, and the most memory that its process held."""
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {
        "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "training", verb, *arguments]
    with (folder / "out").open("w+") as out, (folder / "error").open("w+") as error:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=error)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        error.seek(0)
        if process.returncode:
            raise SystemExit(f"gradcast {verb} failed:\n{error.read()[-3000:]}")
        return dict(json.load(out)), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def disk_bytes(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(job: Job, data: Path, folder: Path, threads: int) -> dict[str, dict[str, float]]:
    """Preflight, then train; what was predicted and what it was."""
    panels, run = folder / "cache" / "gradcast" / "panels", folder / "run"
    for place in (panels, run):
        shutil.rmtree(place, ignore_errors=True)
    cost = call("preflight", words(job, data), folder, threads)[0]["cost"]
    shutil.rmtree(panels, ignore_errors=True)  # a training that had no preflight builds its map, and so do both
    document, peak = call("train", [*words(job, data), f"--output={run}"], folder, threads)
    timing = document["timing"]
    return {
        "predicted": {
            "clock": cost["seconds"]["updates"], "processor": cost["seconds"]["processor"],
            "memory": cost["memory_bytes"]["process"]["peak"], "disk": cost["disk_bytes"]["total"],
            "whole_fit": cost["seconds"]["fit"],
        },
        "measured": {
            "clock": timing["fit_seconds"], "processor": timing["processor_seconds"], "memory": peak,
            "disk": disk_bytes(run) + disk_bytes(panels),
            "whole_fit": timing["fit_seconds"] + timing["check_seconds"],
        },
    }  # fmt: skip


def error(rounds: Rounds, quantity: str) -> float:
    """Median over rounds of predicted by measured, less one."""
    return statistics.median(entry["predicted"][quantity] / entry["measured"][quantity] - 1 for entry in rounds)


def format_row(name: str, rounds: Rounds) -> str:
    """Medians of both sides, and the error, of every quantity."""

    def cell(quantity: str, unit: float, digits: int) -> str:
        sides = (statistics.median(entry[side][quantity] for entry in rounds) / unit for side in ("predicted", "measured"))
        predicted, measured = (f"{value:.{digits}f}" for value in sides)
        return f"{predicted} / {measured} ({error(rounds, quantity):+.0%})"

    cells = (cell("clock", 1, 1), cell("processor", 1, 1), cell("memory", 1e6, 0), cell("disk", 1e6, 2))
    return f"| {name} | {' | '.join(cells)} |"


def write(arguments: argparse.Namespace, results: Results, rounds: int) -> bool:
    """Write what is there after so many rounds; whether the targets are met."""
    judged = "processor" if arguments.busy else "clock"
    targets = {judged: TARGET_TIME, "memory": TARGET_MEMORY, "disk": TARGET_DISK}
    met = all(abs(error(entries, quantity)) <= target for entries in results.values() for quantity, target in targets.items())
    lines = [
        f"Predicted / measured (error), medians over rounds: {rounds}.", "",
        "| job | fit, seconds | fit, processor seconds | resident memory, MB | disk, MB |", "|---|---|---|---|---|",
        *(format_row(name, entries) for name, entries in results.items()), "",
        f"By {judged} seconds: {'all' if met else 'not all'} within {TARGET_TIME:.0%} (memory, disk: {TARGET_MEMORY:.0%}).",
    ]  # fmt: skip
    job = {"rounds": rounds, "threads": arguments.threads, "jobs": {name: vars(JOBS[name]) for name in results}}
    write_results(arguments.name, "\n".join(lines) + "\n", {"machine": machine(), "job": job, "results": results})
    return met


def main() -> int:
    """Measure, print, write; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", default=",".join(JOBS), help="comma-separated")
    parser.add_argument("--busy", action="store_true", help="judge by processor seconds: others use the machine too")
    parser.add_argument("--name", default="preflight_accuracy", help="name of the result files")
    arguments = parser.parse_args()
    results: Results = {name: [] for name in arguments.jobs.split(",")}
    met = False
    with tempfile.TemporaryDirectory(prefix="gradcast-bench-") as place:
        folder = Path(place)
        for name in results:
            write_waves(folder / name, JOBS[name].series, JOBS[name].rows, series_per_file=JOBS[name].series)
        for number in range(1, arguments.rounds + 1):
            for name, entries in results.items():
                entries.append(measure(JOBS[name], folder / name, folder, arguments.threads))
                print(format_row(name, entries), file=sys.stderr, flush=True)
            met = write(arguments, results, number)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
