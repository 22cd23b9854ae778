"""The rows that go with a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from training.config import DataConfig
from training.data.context import read_context, write_context
from training.data.panel import Panel, build_panel
from training.data.splits import build_splits
from training.data.windows import WindowStore

CONFIG = DataConfig(futr_exog=("x", "w"), stat_exog=("kind",), val_size=4)


def original() -> Panel:
    random = np.random.default_rng(0)
    frames = []
    for name, length in (("a", 40), ("b", 25), ("tiny", 3)):
        frame = pd.DataFrame(
            {"unique_id": name, "ds": pd.date_range("2020-03-28", periods=length, freq="h", tz="Europe/Berlin")}
        )
        frame["y"] = random.normal(size=length)
        frame.loc[frame.index[-2], "y"] = np.nan
        frame["x"], frame["w"], frame["kind"] = (
            random.normal(size=length),
            random.choice(["u", "v"], length),
            "k" + name[0],
        )
        frames.append(frame)
    return build_panel(pd.concat(frames, ignore_index=True), CONFIG)


def test_kept_rows_give_the_window_of_the_full_panel(tmp_path: Path) -> None:
    """A panel built from the kept rows has the same last window as the panel they were taken from, zone and all."""
    panel = original()
    path = tmp_path / "context.parquet"
    path.write_bytes(write_context(panel, None, 10))
    kept = build_panel(read_context(path), DataConfig(freq=panel.freq), panel.columns, 5, timezone=panel.timezone)
    assert kept.ids == panel.ids
    full_window = WindowStore(panel, 10, 5).gather(torch.arange(3), torch.from_numpy(panel.lengths)).inputs
    kept_window = WindowStore(kept, 10, 5).gather(torch.arange(3), torch.from_numpy(kept.lengths)).inputs
    for name in ("context", "observed_mask", "static_covariates"):
        torch.testing.assert_close(getattr(kept_window, name), getattr(full_window, name), rtol=0, atol=0)
    # The tiny series is padded with its first row in both, so that even the padding agrees.
    torch.testing.assert_close(kept_window.past_covariates, full_window.past_covariates, rtol=0, atol=0)


def test_only_trained_series_are_kept_if_splits_are_given(tmp_path: Path) -> None:
    """A series without a training window was never seen by the model and is left out."""
    panel = original()
    path = tmp_path / "context.parquet"
    path.write_bytes(write_context(panel, build_splits(panel, 4, val_size=4), 10))
    frame = read_context(path)
    assert frame["unique_id"].unique().tolist() == ["a", "b"]
    assert frame.groupby("unique_id", observed=True).size().tolist() == [10, 10]


def test_missing_targets_stay_missing(tmp_path: Path) -> None:
    """An unobserved row is written as null, a guess too."""
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(4), "y": [1.0, np.nan, 3.0, 4.0]})
    path = tmp_path / "context.parquet"
    path.write_bytes(write_context(build_panel(frame, DataConfig(fill="ffill")), None, 99))
    context = read_context(path)
    assert context["ds"].tolist() == [0, 1, 2, 3]
    assert context["y"].isna().tolist() == [False, True, False, False]
