"""Windows by index: the cases that the properties cannot pin to a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from training.config import DataConfig
from training.data.panel import Panel, build_panel
from training.data.splits import build_splits
from training.data.windows import TrainingWindows, WindowStore, covariate_statistics, validation_cutoffs
from training.errors import DataError


def panel_of(*lengths: int, **config: Any) -> Panel:
    frames = [
        pd.DataFrame(
            {"unique_id": f"s{i}", "ds": np.arange(n), "y": 100.0 * i + np.arange(n), "x": 10.0 * np.arange(n)}
        )
        for i, n in enumerate(lengths)
    ]
    return build_panel(pd.concat(frames), DataConfig(freq="1", **config))


def index(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def test_window_by_hand() -> None:
    """Context ends at the cutoff, the target begins there, past covariates stop and known-future ones go on."""
    store = WindowStore(panel_of(6, 8, futr_exog=("x",)), context_length=3, horizon=2)
    batch = store.gather(index(1), index(4))
    assert batch.inputs.context.tolist() == [[101, 102, 103]]
    assert batch.target.tolist() == [[104, 105]]
    assert batch.inputs.past_covariates[0, :, 0].tolist() == [10, 20, 30]
    assert batch.inputs.future_covariates[0, :, 0].tolist() == [40, 50]
    assert batch.target_mask.all()
    assert batch.inputs.observed_mask.all()


def test_padding_before_the_start_is_masked() -> None:
    """Rows before the start of a series are 0 and masked, never the end of the series before it."""
    batch = WindowStore(panel_of(6, 8), 4, 2).gather(index(1), index(1))
    assert batch.inputs.context.tolist() == [[0, 0, 0, 100]]
    assert batch.inputs.observed_mask.tolist() == [[False, False, False, True]]


def test_targets_past_the_end_are_masked() -> None:
    """Rows past the end of a series are 0 and masked, never the start of the next one."""
    batch = WindowStore(panel_of(6, 8), 4, 3).gather(index(0), index(5))
    assert batch.target.tolist() == [[5, 0, 0]]
    assert batch.target_mask.tolist() == [[True, False, False]]


def test_forecast_from_the_end_reads_the_known_future() -> None:
    """With the cutoff at the length, future covariates are the extra rows, the last repeated where they run out."""
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(8), "y": [1.0] * 5 + [np.nan] * 3, "x": np.arange(8.0)})
    panel = build_panel(frame, DataConfig(freq="1", futr_exog=("x",)), horizon=4)
    batch = WindowStore(panel, 3, 4).gather(index(0), index(5))
    assert batch.inputs.past_covariates[0, :, 0].tolist() == [2, 3, 4]
    assert batch.inputs.future_covariates[0, :, 0].tolist() == [5, 6, 7, 7]
    assert not batch.target_mask.any()


@pytest.mark.parametrize("futr_exog", [(), ("x",)])
@pytest.mark.parametrize("fill", ["mask", "ffill"])
def test_windows_at_the_end_are_the_same_in_any_company(futr_exog: tuple[str, ...], fill: str) -> None:
    """Whether read as runs of memory or, because another window begins before its series, step by step."""
    frame = pd.concat([
        pd.DataFrame({"unique_id": f"s{i}", "ds": np.arange(n), "y": 100.0 * i + np.arange(n), "x": np.arange(n) ** 2.0})
        for i, n in enumerate((9, 2, 12))
    ])  # fmt: skip
    frame.loc[(frame["ds"] == 6), "y"] = np.nan
    store = WindowStore(build_panel(frame, DataConfig(freq="1", futr_exog=futr_exog, fill=fill)), 5, 3)
    alone = store.gather(index(0, 2, 2), index(9, 12, 11))
    company = store.gather(index(0, 2, 2, 1), index(9, 12, 11, 2))
    for mine, shared in zip((*alone.inputs, *alone[1:]), (*company.inputs, *company[1:]), strict=True):
        assert torch.equal(mine, shared[:3])
    assert alone.target_mask.tolist() == [[False] * 3, [False] * 3, [True, False, False]]


def test_tensors_share_memory_with_the_panel() -> None:
    """Nothing is copied on the CPU: the store sees a change of the panel's arrays."""
    panel = panel_of(20)
    store = WindowStore(panel, 4, 2)
    panel.values[5] = -1.0
    assert store.gather(index(0), index(6)).inputs.context[0, -1] == -1.0


def test_cutoffs_outside_the_series_are_refused() -> None:
    """A cutoff beyond the length, or below 0, is an error and not a window of another series."""
    store = WindowStore(panel_of(6, 8), 4, 2)
    with pytest.raises(IndexError):
        store.gather(index(0), index(7))
    with pytest.raises(IndexError):
        store.gather(index(0), index(-1))


def test_panel_without_covariates_gives_zero_width() -> None:
    """Networks always get all five tensors."""
    inputs = WindowStore(panel_of(20), 4, 2).gather(index(0, 0), index(5, 6)).inputs
    assert inputs.past_covariates.shape == (2, 4, 0)
    assert inputs.future_covariates.shape == (2, 2, 0)
    assert inputs.static_covariates.shape == (2, 0)


def test_guesses_are_context_but_never_targets() -> None:
    """With fill ffill the network sees the guess as observed; the same row as a target is masked."""
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(12), "y": [1.0, 2, 3, np.nan, 5, 6, 7, 8, 9, 10, 11, 12]})
    store = WindowStore(build_panel(frame, DataConfig(freq="1", fill="ffill")), 3, 2)
    seen, asked = store.gather(index(0), index(5)), store.gather(index(0), index(3))
    assert seen.inputs.context.tolist() == [[3, 3, 5]]
    assert seen.inputs.observed_mask.all()
    assert asked.target.tolist() == [[0, 5]]
    assert asked.target_mask.tolist() == [[False, True]]


def test_interpolation_never_looks_past_the_cutoff() -> None:
    """With fill linear a gap that the cutoff lies in shows the last value; a closed gap shows the line."""
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(8), "y": [1.0, 2, np.nan, np.nan, 8, 9, 10, 11]})
    store = WindowStore(build_panel(frame, DataConfig(freq="1", fill="linear")), 4, 2)
    assert store.gather(index(0), index(4)).inputs.context.tolist() == [[1, 2, 2, 2]]
    assert store.gather(index(0), index(5)).inputs.context.tolist() == [[2, 4, 6, 8]]


def test_training_windows_are_all_windows_of_the_training_rows() -> None:
    """Numbering the windows gives each cutoff once: full contexts, half contexts for short series, targets inside."""
    panel = panel_of(30, 12, 9)
    splits = build_splits(panel, horizon=3, val_size=4)
    windows = TrainingWindows(WindowStore(panel, 8, 3), splits)
    series, cutoff = windows.locate(torch.arange(windows.num_windows))
    found = set(zip(series.tolist(), cutoff.tolist(), strict=True))
    assert splits.train_end.tolist() == [26, 8, 5]
    expected = {(0, c) for c in range(8, 24)} | {(1, c) for c in range(2, 6)} | {(2, c) for c in range(1, 3)}
    assert found == expected
    assert len(series) == len(expected)


def test_sampling_is_uniform_and_seeded() -> None:
    """Every window is drawn about equally often, and a seed fixes the draw."""
    panel = panel_of(20, 40)
    windows = TrainingWindows(WindowStore(panel, 5, 2), build_splits(panel, 2, val_size=4))
    series, cutoff = windows.sample(20_000, torch.Generator().manual_seed(1))
    counts = np.unique(1000 * series.numpy() + cutoff.numpy(), return_counts=True)[1]
    assert len(counts) == windows.num_windows
    assert counts.std() < 1.5 * np.sqrt(counts.mean())
    again = windows.sample(20_000, torch.Generator().manual_seed(1))
    assert torch.equal(series, again[0])
    assert torch.equal(cutoff, again[1])


def test_no_training_window_is_an_error() -> None:
    """A panel whose series are all too short is refused, not sampled from nothing."""
    panel = panel_of(20)
    splits = build_splits(panel, 5)
    with pytest.raises(DataError):
        TrainingWindows(WindowStore(panel, 4, 18), splits)


def test_validation_windows_are_fixed_spread_and_inside() -> None:
    """The selection repeats, spans first and last validation window, and every target lies in validation rows."""
    panel = panel_of(100, 80, 9)
    splits = build_splits(panel, 4, val_size=30, test_size=5)
    series, cutoff = validation_cutoffs(splits, max_windows=10)
    assert len(series) == 10
    assert torch.equal(validation_cutoffs(splits, 10)[1], cutoff)
    assert (cutoff.numpy() >= splits.train_end[series]).all()
    assert (cutoff.numpy() + 4 <= splits.val_end[series]).all()
    assert (series[0], cutoff[0]) == (0, 65)
    assert (series[-1], cutoff[-1]) == (1, 71)
    assert len(validation_cutoffs(splits, 1000)[0]) == 2 * 27


def test_statistics_are_those_of_the_training_rows() -> None:
    """Mean and deviation leave out validation rows; 0/1 columns and the calendar keep their unit; constants keep a scale."""
    length = 48
    frame = pd.DataFrame(
        {
            "unique_id": "a",
            "ds": pd.date_range("2020", periods=length, freq="h"),
            "y": 1.0,
            "number": np.where(np.arange(length) < 40, np.arange(length), 1e6),
            "flag": np.arange(length) % 2,
            "flat": 1013.0 + 1e-5 * np.arange(length),
            "text": "t",
            "size": 7.0,
        }
    )
    config = DataConfig(
        futr_exog=("flag",), hist_exog=("number", "flat", "text"), stat_exog=("size",), calendar=("hour_of_day",)
    )
    panel = build_panel(frame, config)
    statistics = covariate_statistics(panel, build_splits(panel, 4, val_size=8))
    assert panel.columns.past_features == ("flag", "hour_of_day_sin", "hour_of_day_cos", "number", "flat", "text=t")
    assert statistics.past_loc[:4].tolist() == pytest.approx([0, 0, 0, 19.5])
    assert statistics.past_scale[:4].tolist() == pytest.approx([0.5, 1, 1, np.arange(40).std()])
    assert statistics.past_loc[4] == pytest.approx(1013, abs=1e-3)
    assert statistics.past_scale[4] > 1
    assert (statistics.past_loc[5], statistics.past_scale[5]) == (0, 1)
    assert statistics.static_loc.tolist() == [7]
    assert statistics.static_scale[0] >= 1
