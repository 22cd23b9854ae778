"""M4 Hourly: one model for all 414 series, the official test set and the official overall weighted average (OWA).

OWA = (sMAPE / sMAPE of Naive2 + MASE / MASE of Naive2) / 2 (Makridakis, Spiliotis, Assimakopoulos 2020, Int. J.
Forecasting 36:54-74). Naive2's scores are computed here from its published forecasts and must equal the published scores
to three decimals, so that the scorer is the official one. Target: below 0.60 (single-model ES-RNN 0.615).

usage: ACC_DATA=FOLDER benchmarks/accuracy/m4_hourly.py [--seeds 0,1,2] [--set KEY=VALUE ...] [--name m4_hourly]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from command import numbered, train_and_forecast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reporting import machine, write_results

SEASON, HORIZON = 24, 48
TARGET = 0.60


def scores(forecasts: pd.DataFrame, truth: pd.DataFrame, scale: pd.Series) -> tuple[float, float]:
    """The competition's sMAPE in percent and MASE, means over the points of all series.

    Args:
        forecasts: `unique_id, h, yhat`.
        truth: `unique_id, h, y`.
        scale: Mean absolute seasonal difference of each series' training rows.
    """
    both = truth.merge(forecasts, on=["unique_id", "h"], validate="one_to_one")
    if len(both) != len(truth):
        raise SystemExit(f"forecasts for {len(both)} of {len(truth)} points")
    error = (both["y"] - both["yhat"]).abs()
    smape = (200 * error / (both["y"].abs() + both["yhat"].abs())).mean()
    return float(smape), float((error / both["unique_id"].map(scale)).mean())


def seasonal_scale(train: pd.DataFrame) -> pd.Series:
    """Denominator of MASE of every series."""
    differences = train.groupby("unique_id", sort=False)["y"].diff(SEASON).abs()
    return differences.groupby(train["unique_id"], sort=False).mean()


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--name", default="m4_hourly", help="name of the result files")
    arguments = parser.parse_args()
    data = Path(os.environ["ACC_DATA"])
    train_file = data / "benchmark" / "m4_hourly_train.csv.gz"
    train, truth = pd.read_csv(train_file), numbered(pd.read_csv(data / "benchmark" / "m4_hourly_test.csv.gz"))
    scale = seasonal_scale(train)
    published = pd.read_csv(data / "benchmark" / "m4_hourly_reference_forecasts.csv.gz")
    naive2 = published.rename(columns={"Naive2": "yhat"})[["unique_id", "h", "yhat"]]
    reference = scores(naive2, truth, scale)
    table = pd.read_csv(data / "reference" / "m4_official_scores.csv")
    official = table[(table["method"] == "Naive2") & (table["frequency"] == "Hourly")].iloc[0]
    for name, ours, theirs in zip(("sMAPE", "MASE"), reference, official[["sMAPE", "MASE"]], strict=True):
        if round(ours, 3) != round(float(theirs), 3):
            raise SystemExit(f"{name} of Naive2 is {ours:.4f} here and {theirs} officially: not the official scorer")
    rows, lines = [], ["| seed | sMAPE % | MASE | OWA | fit s | verdict |", "|---|---|---|---|---|---|"]
    for seed in (int(text) for text in arguments.seeds.split(",")):
        forecasts, document = train_and_forecast(train_file, HORIZON, seed, arguments.settings)
        smape, mase = scores(forecasts, truth, scale)
        owa = (smape / reference[0] + mase / reference[1]) / 2
        seconds, verdict = document["timing"]["fit_seconds"], document["gradients"]["verdict"]
        rows.append({"seed": seed, "smape": smape, "mase": mase, "owa": owa, "fit_seconds": seconds, "verdict": verdict})
        lines.append(f"| {seed} | {smape:.2f} | {mase:.3f} | {owa:.3f} | {seconds:.0f} | {verdict} |")
        print(lines[-1], file=sys.stderr, flush=True)
    owas = [row["owa"] for row in rows]
    lines.append(f"| mean (spread) | | | {np.mean(owas):.3f} ({min(owas):.3f} .. {max(owas):.3f}) | | |")
    command = "benchmarks/accuracy/m4_hourly.py " + " ".join(f"--set {setting}" for setting in arguments.settings)
    note = f"\n`{command.strip()}`; Naive2, recomputed: sMAPE {reference[0]:.3f}, MASE {reference[1]:.3f}.\n"
    document = {"machine": machine(), "settings": arguments.settings, "naive2": reference, "results": rows}
    write_results(arguments.name, "\n".join(lines) + "\n" + note, document)
    return int(float(np.mean(owas)) >= TARGET)


if __name__ == "__main__":
    sys.exit(main())
