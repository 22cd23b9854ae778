"""The naive baselines on public data against published numbers; needs the shared data folder beside the project."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training import metrics
from training.baselines import naive, seasonal_naive
from training.config import DataConfig
from training.data.panel import build_panel
from training.data.splits import build_splits
from training.origins import build_origins, target_rows

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ANCHORS = DATA / "reference" / "naive_anchors.csv"
pytestmark = pytest.mark.skipif(not ANCHORS.exists(), reason=f"needs the shared evaluation data ({ANCHORS.name})")


def read_panel(file, season_length, freq, horizon):
    frame = pd.read_csv(DATA / file)[["unique_id", "ds", "y"]]
    frame["ds"] = pd.to_datetime(frame["ds"])
    return build_panel(frame, DataConfig(freq=freq, season_length=season_length, calendar="none"), horizon=horizon)


def forecast(panel, origins, method, season_length):
    if method == "naive":
        return naive(panel, origins.series, origins.cutoff, origins.horizon)
    return seasonal_naive(panel, origins.series, origins.cutoff, origins.horizon, season_length)


CASES = [
    ("demo/metro_traffic_hourly.csv", "h"),
    ("demo/nyc_departures_hourly.csv", "h"),
    ("classic/nyc_taxi_30min.csv", "30min"),
    ("classic/chicago_l_ridership_daily.csv", "D"),
    ("classic/air_passengers.csv", "MS"),
]


@pytest.mark.parametrize(("file", "freq"), CASES, ids=[Path(file).stem for file, _ in CASES])
def test_errors_equal_the_published_anchors(file, freq):
    """MAE of every method over the last four windows, and MASE as the anchors define it, agree to the last digit.

    The anchors divide the error of each window by the seasonal naive error on all rows before that window, gaps filled
    with the last value, and average over windows.
    """
    with ANCHORS.open(encoding="utf-8") as lines:
        anchors = [row for row in csv.DictReader(lines) if row["file"] == file]
    assert anchors
    horizon, n_windows, scale_m = (int(anchors[0][key]) for key in ("horizon", "windows", "scale_m"))
    panel = read_panel(file, scale_m, freq, horizon)
    splits = build_splits(panel, horizon, horizon, n_windows * horizon)
    origins = build_origins(panel, splits, "test", horizon, n_windows=n_windows)
    rows, observed = target_rows(panel, origins.series, origins.cutoff, horizon)
    y = panel.values[rows]
    known = pd.Series(np.where(panel.observed, panel.values, np.nan)).ffill().to_numpy(np.float32)
    everything = np.ones(len(known), dtype=bool)
    for anchor in anchors:
        season = int(anchor["method"].rpartition("=")[2]) if "=" in anchor["method"] else 1
        predicted = forecast(panel, origins, anchor["method"], season)
        assert metrics.mae(y, predicted, observed) == pytest.approx(float(anchor["MAE"]), abs=6e-5)
        ratios = []
        for k, (series, cutoff) in enumerate(zip(origins.series, origins.cutoff, strict=True)):
            before = np.where(np.arange(panel.num_series) == series, cutoff, 0)
            scale = metrics.seasonal_scale(known, everything, panel.offsets, before, scale_m)
            ratios.append(metrics.mase(y[[k]], predicted[[k]], np.array([series]), scale, observed[[k]]))
        assert np.mean(ratios) == pytest.approx(float(anchor["MASE"]), abs=6e-4)


def test_seasonal_naive_on_28_daily_origins_of_metro_traffic():
    """The weekly seasonal naive has MASE 0.911 over 28 daily origins, as the benchmark of the peers scored it."""
    panel = read_panel("demo/metro_traffic_hourly.csv", 168, "h", 24)
    splits = build_splits(panel, 24, 24, 28 * 24)
    origins = build_origins(panel, splits, "test", 24)
    rows, observed = target_rows(panel, origins.series, origins.cutoff, 24)
    scale = metrics.seasonal_scale(panel.values, panel.observed, panel.offsets, splits.val_end, 168)
    predicted = seasonal_naive(panel, origins.series, origins.cutoff, 24)
    assert len(origins) == 28
    assert metrics.mase(panel.values[rows], predicted, origins.series, scale, observed) == pytest.approx(
        0.911, abs=5e-4
    )
