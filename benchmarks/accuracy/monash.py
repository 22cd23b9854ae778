"""Three panels of the Monash archive: mean absolute error on the archive's horizons, against its table.

The archive's own protocol (Godahewa et al. 2021, NeurIPS Datasets and Benchmarks): the last horizon of every series is
held out, missing values are the median of their weekday, the score is the mean over series of their mean absolute
errors. Target: below the table's DeepAR on each.

usage: ACC_DATA=FOLDER benchmarks/accuracy/monash.py [--seeds 0,1,2] [--only hospital,nn5] [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from command import numbered, train_and_forecast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reporting import machine, write_results


@dataclass(frozen=True)
class Panel:
    """One data set of the archive.

    Attributes:
        name: In the archive's table.
        file: Below `benchmark/` of the data folder.
        horizon: Steps held out.
        test_file: Where the held-out rows are, if not at the end of `file`.
    """

    name: str
    file: str
    horizon: int
    test_file: str | None = None

    def read(self, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows to train on and rows to score on, `unique_id, ds, y`, without gaps."""
        columns = ["unique_id", "ds", "y"]
        rows = pd.read_csv(folder / self.file, parse_dates=["ds"], dtype={"unique_id": str})[columns]
        if self.test_file is not None:
            return rows, pd.read_csv(folder / self.test_file, parse_dates=["ds"], dtype={"unique_id": str})[columns]
        rows = rows.sort_values(["unique_id", "ds"], kind="stable")
        weekday = rows.groupby(["unique_id", rows["ds"].dt.day_of_week])["y"].transform("median")
        rows["y"] = rows["y"].fillna(weekday)
        from_end = rows.groupby("unique_id", sort=False).cumcount(ascending=False)
        return rows[from_end >= self.horizon], rows[from_end < self.horizon]


PANELS = {
    "hospital": Panel("Hospital", "hospital_monthly.csv.gz", 12),
    "tourism": Panel("Tourism Monthly", "tourism_monthly_train.csv.gz", 24, "tourism_monthly_test.csv.gz"),
    "nn5": Panel("NN5 Daily", "nn5_daily_with_missing.csv.gz", 56),
}


def mean_absolute_error(panel: Panel, folder: Path, seed: int, settings: list[str]) -> tuple[float, float]:
    """Score and fit seconds of one seed."""
    train, test = panel.read(folder)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "train.parquet"
        train.to_parquet(path, index=False)
        forecasts, document = train_and_forecast(path, panel.horizon, seed, settings)
    both = numbered(test).merge(forecasts, on=["unique_id", "h"], validate="one_to_one")
    if len(both) != len(test):
        raise SystemExit(f"forecasts for {len(both)} of {len(test)} points of {panel.name}")
    errors = (both["y"] - both["yhat"]).abs().groupby(both["unique_id"]).mean()
    return float(errors.mean()), float(document["timing"]["fit_seconds"])


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default=",".join(PANELS), help=f"comma-separated from {', '.join(PANELS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--name", default="monash", help="name of the result files")
    arguments = parser.parse_args()
    data = Path(os.environ["ACC_DATA"])
    table = pd.read_csv(data / "reference" / "monash_mae.csv").set_index("Dataset")
    seeds = [int(text) for text in arguments.seeds.split(",")]
    rows = []
    lines = ["| data set | gradcast | spread over seeds | DeepAR | best of the table | fit s |", "|---|---|---|---|---|---|"]
    missed = False
    for name in arguments.only.split(","):
        panel = PANELS[name]
        found = [mean_absolute_error(panel, data / "benchmark", seed, arguments.settings) for seed in seeds]
        scores, seconds = zip(*found, strict=True)
        published = pd.to_numeric(table.loc[panel.name], errors="coerce")
        deepar, best = float(published["DeepAR"]), f"{published.min():.2f} ({published.idxmin()})"
        rows.append({"data": panel.name, "mae": scores, "fit_seconds": seconds, "deepar": deepar})
        spread = f"{min(scores):.2f} .. {max(scores):.2f}"
        lines.append(f"| {panel.name} | {np.mean(scores):.2f} | {spread} | {deepar:.2f} | {best} | {np.mean(seconds):.0f} |")
        missed |= float(np.mean(scores)) >= deepar
        print(lines[-1], file=sys.stderr, flush=True)
    command = "benchmarks/accuracy/monash.py " + " ".join(f"--set {setting}" for setting in arguments.settings)
    document = {"machine": machine(), "settings": arguments.settings, "seeds": seeds, "results": rows}
    write_results(arguments.name, "\n".join(lines) + f"\n\n`{command.strip()}`, {len(seeds)} seeds.\n", document)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
