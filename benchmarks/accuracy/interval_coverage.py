"""Coverage of 80 % intervals on held-out origins of eight data sets, through the command line.

Each model is trained at its defaults with `model.conformal=split` on the rows before the held-out ones, then scored on
rolling origins twice: as it is, and with `--adaptive-intervals` (levels moved after every origin whose targets have become
known). Target: every coverage within 77-83 %.

usage: ACC_DATA=FOLDER benchmarks/accuracy/interval_coverage.py [--seeds 0] [--only metro,nn5] [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from command import gradcast
from held_out import HeldOutPanel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reporting import machine, write_results

LOWEST, HIGHEST = 0.77, 0.83


PANELS = {
    "metro": HeldOutPanel("demo/metro_traffic_hourly.csv", 24, 28, ("data.futr_exog=[is_holiday]",)),
    "bike": HeldOutPanel("demo/bike_sharing_hourly.csv", 24, 28, ("data.futr_exog=[holiday, workingday]",)),
    "departures": HeldOutPanel("demo/nyc_departures_hourly.csv", 24, 28, ("data.futr_exog=[sched]",)),
    "etth1": HeldOutPanel("benchmark/ETTh1.csv.gz", 24, 40, ("data.format=wide", "data.time_col=date")),
    "m4_hourly": HeldOutPanel("benchmark/m4_hourly_train.csv.gz", 24, 5),
    "nn5": HeldOutPanel("benchmark/nn5_daily_with_missing.csv.gz", 14, 8),
    "hospital": HeldOutPanel("benchmark/hospital_monthly.csv.gz", 6, 4),
    "tourism": HeldOutPanel("benchmark/tourism_monthly_train.csv.gz", 6, 4),
}


def coverages(panel: HeldOutPanel, folder: Path, seed: int, settings: list[str]) -> dict[str, float]:
    """Coverage and width of the 80 % intervals of one seed, with and without adaptation."""
    data = folder / panel.file
    chosen = [f"model.horizon={panel.horizon}", f"data.test_size={panel.test_size}", "model.conformal=split", *panel.settings]
    with tempfile.TemporaryDirectory() as scratch:
        quiet = ["tracking.register=false", f"tracking.uri=sqlite:///{scratch}/mlflow.db"]
        gradcast(
            "train", "--data", str(data), "--out", f"{scratch}/run", "--seed", str(seed),
            *(part for setting in [*chosen, *quiet, *settings] for part in ("--set", setting)),
        )  # fmt: skip
        reading = [setting for setting in panel.settings if setting.split("=")[0] in ("data.format", "data.time_col")]
        score = [
            "backtest", "--bundle", f"{scratch}/run/bundle", "--data", str(data), "--windows", str(panel.windows),
            *(part for setting in reading for part in ("--set", setting)),
        ]  # fmt: skip
        fixed, adapted = gradcast(*score)["metrics"], gradcast(*score, "--adaptive-intervals")["metrics"]
    return {
        "split": fixed["coverage_80"], "adaptive": adapted["coverage_80"],
        "split_width": fixed["width_80"], "adaptive_width": adapted["width_80"],
    }  # fmt: skip


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default=",".join(PANELS), help=f"comma-separated from {', '.join(PANELS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--name", default="coverage", help="name of the result files")
    arguments = parser.parse_args()
    folder = Path(os.environ["ACC_DATA"])
    seeds = [int(text) for text in arguments.seeds.split(",")]
    rows, lines = [], ["| data set | origins per series | horizon | split % | adaptive % | width, adaptive / split |"]
    lines.append("|---|---|---|---|---|---|")
    for name in arguments.only.split(","):
        panel = PANELS[name]
        found = [coverages(panel, folder, seed, arguments.settings) for seed in seeds]
        mean = {key: float(np.mean([entry[key] for entry in found])) for key in found[0]}
        rows.append({"data": name, "seeds": found, "mean": mean})
        width = mean["adaptive_width"] / mean["split_width"]
        shown = f"{100 * mean['split']:.1f} | {100 * mean['adaptive']:.1f} | {width:.2f}"
        lines.append(f"| {name} | {panel.windows} | {panel.horizon} | {shown} |")
        print(lines[-1], file=sys.stderr, flush=True)
    document = {"machine": machine(), "settings": arguments.settings, "seeds": seeds, "results": rows}
    command = "benchmarks/accuracy/interval_coverage.py " + " ".join(f"--set {setting}" for setting in arguments.settings)
    write_results(arguments.name, "\n".join(lines) + f"\n\n`{command.strip()}`, {len(seeds)} seed(s).\n", document)
    kept = [LOWEST <= row["mean"]["adaptive"] <= HIGHEST for row in rows]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
