"""Initialisation of an LSTM, measured: torch's own, a forget bias of 1, chrono, and the rule that chooses between them.

Ten data sets, with and without calendar covariates, each trained through the command line with every initialisation and every
seed, everything else at its defaults, and scored on held-out rolling origins (MASE). The rule (`model.initialization: null`) is
asked what it chooses; its score is that of the choice, for the runs are the same. Target: the rule is better in geometric mean
than any fixed choice.

usage: ACC_DATA=FOLDER benchmarks/accuracy/initialization.py [--seeds 0,1,2] [--steps 600] [--jobs 2] [--only metro,taxi]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import yaml
from command import gradcast
from held_out import HeldOutPanel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reporting import machine, write_results

FIXED = ("torch", "forget_bias", "chrono")
RULE = "the rule"


PANELS = {
    "metro": HeldOutPanel("demo/metro_traffic_hourly.csv", 24, 28),
    "bike": HeldOutPanel("demo/bike_sharing_hourly.csv", 24, 28),
    "departures": HeldOutPanel("demo/nyc_departures_hourly.csv", 24, 28),
    "taxi": HeldOutPanel("classic/nyc_taxi_30min.csv", 48, 14),
    "electricity": HeldOutPanel("classic/electricity_portugal_mean_hourly.csv.gz", 24, 28),
    "occupancy": HeldOutPanel("classic/sf_traffic_occupancy_hourly.csv.gz", 24, 28),
    "solar and wind": HeldOutPanel("classic/aus_solar_wind_power_hourly.csv.gz", 24, 28),
    "ridership": HeldOutPanel("classic/chicago_l_ridership_daily.csv", 14, 26),
    "gasoline": HeldOutPanel("classic/us_gasoline_weekly.csv", 13, 8),
    "nn5": HeldOutPanel("benchmark/nn5_daily_with_missing.csv.gz", 14, 8),
}


@dataclass(frozen=True)
class Case:
    """One data set, with a calendar or without."""

    data: str
    calendar: str

    def settings(self, steps: int) -> list[str]:
        """What every run of this case shares, as options."""
        panel = PANELS[self.data]
        chosen = [
            f"model.horizon={panel.horizon}", f"data.test_size={panel.test_size}", "model.architecture=lstm",
            "model.skip=linear",  # what goes with a start that was left open
            f"data.calendar={self.calendar}", f"fit.max_steps={steps}", "fit.num_threads=1", *panel.settings,
        ]  # fmt: skip
        return [word for setting in chosen for word in ("--set", setting)]


def run(case: Case, initialization: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train and score once."""
    data, panel = folder / PANELS[case.data].file, PANELS[case.data]
    with tempfile.TemporaryDirectory() as scratch:
        trained = gradcast(
            "train", "--data", str(data), "--out", f"{scratch}/run", "--seed", str(seed), *case.settings(steps),
            "--set", "tracking.register=false", "--set", f"tracking.uri=sqlite:///{scratch}/mlflow.db",
            "--set", f"model.initialization={initialization}",
        )  # fmt: skip
        scored = gradcast(
            "backtest", "--bundle", f"{scratch}/run/bundle", "--data", str(data), "--windows", str(panel.windows),
            "--step-size", str(panel.horizon),
        )  # fmt: skip
    row = {"data": case.data, "calendar": case.calendar, "initialization": initialization, "seed": seed}
    return row | {"mase": scored["metrics"]["mase"], "verdict": trained["gradients"]["verdict"]}


def choice(case: Case, folder: Path) -> str:
    """What the rule chooses, as the configuration of a run of a few steps holds it."""
    with tempfile.TemporaryDirectory() as scratch:
        gradcast(
            "train", "--data", str(folder / PANELS[case.data].file), "--out", f"{scratch}/run", *case.settings(steps=2),
            "--set", "tracking.register=false", "--set", f"tracking.uri=sqlite:///{scratch}/mlflow.db",
        )  # fmt: skip
        return str(yaml.safe_load(Path(f"{scratch}/run/config.yaml").read_text())["model"]["initialization"])


def summarize(rows: list[dict[str, Any]], chosen: dict[Case, str]) -> tuple[str, dict[str, float]]:
    """The table, and the geometric mean of every column relative to torch's."""
    scores: dict[tuple[Case, str], list[float]] = defaultdict(list)
    for row in rows:
        scores[Case(row["data"], row["calendar"]), row["initialization"]].append(row["mase"])
    means = {case: {name: mean(scores[case, name]) for name in FIXED} for case in chosen}
    for case, name in chosen.items():
        means[case][RULE] = means[case][name]
    lines = [f"| data set | calendar | {' | '.join(FIXED)} | the rule chooses |", "|---|---|---|---|---|---|"]
    for case, found in means.items():
        spread = {name: max(scores[case, name]) - min(scores[case, name]) for name in FIXED}
        best = min(found[name] for name in FIXED)
        cells = [
            f"{'**' if found[name] == best else ''}{found[name]:.3f}{'**' if found[name] == best else ''} ({spread[name]:.3f})"
            for name in FIXED
        ]
        lines.append(f"| {case.data} | {case.calendar} | {' | '.join(cells)} | {chosen[case]} |")
    relative = {
        name: geometric_mean(found[name] / found["torch"] for found in means.values()) for name in (*FIXED, RULE)
    }
    shown = " | ".join(f"{relative[name]:.3f}" for name in (*FIXED, RULE))
    lines.append(f"| geometric mean, of torch's | | {shown} |")
    return "\n".join(lines) + "\n", relative


def main() -> int:
    """Measure, print, write; results are written after every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps at most")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each")
    parser.add_argument("--only", default=",".join(PANELS), help="names of data sets")
    arguments = parser.parse_args()
    folder, seeds = Path(os.environ["ACC_DATA"]), [int(text) for text in arguments.seeds.split(",")]
    rows: list[dict[str, Any]] = []
    chosen: dict[Case, str] = {}
    relative: dict[str, float] = {}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for case in [Case(name, calendar) for name in arguments.only.split(",") for calendar in ("auto", "none")]:
            work = [pool.submit(run, case, name, seed, arguments.steps, folder) for name in FIXED for seed in seeds]
            name = choice(case, folder)
            rows += [job.result() for job in work]
            chosen[case] = name
            table, relative = summarize(rows, chosen)
            print(f"{case.data}, calendar {case.calendar}: the rule chooses {name}", file=sys.stderr, flush=True)
            note = f"\nMASE, mean over seeds {arguments.seeds} (highest less lowest), {arguments.steps} steps.\n"
            document = {
                "machine": machine(), "steps": arguments.steps, "seeds": seeds, "rows": rows, "relative": relative,
                "rule": {f"{key.data}, {key.calendar}": value for key, value in chosen.items()},
            }  # fmt: skip
            write_results(
                "initialization", table + note, document, is_quiet=len(chosen) < 2 * len(arguments.only.split(","))
            )
    return int(relative[RULE] >= min(relative[name] for name in FIXED))


if __name__ == "__main__":
    sys.exit(main())
