"""A backtest over a real panel: batches, scores, tables, files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from training import metrics
from training.backtest import BacktestError, median_of, run_backtest
from training.backtest_text import format_backtest
from training.config import DataConfig
from training.data.panel import build_panel
from training.data.splits import build_splits
from training.data.windows import WindowStore
from training.errors import DataError
from training.origins import build_origins

CONTEXT, HORIZON = 24, 6
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def hourly_frame(starts=("2024-03-01 05:00", "2024-01-10 00:00"), lengths=(220, 150), timezone=None):
    """Two series of different start and length with a daily season, noise and a few gaps."""
    rng, frames = np.random.default_rng(0), []
    for name, start, length in zip(("b", "a"), starts, lengths, strict=True):
        ds = pd.date_range(start, periods=length, freq="h", tz=timezone)
        y = 20 + 5 * np.sin(2 * np.pi * np.arange(length) / 24) + rng.normal(0, 1, length)
        y[rng.integers(1, length - 1, 8)] = np.nan
        frames.append(pd.DataFrame({"unique_id": name, "ds": ds, "y": y}))
    return pd.concat(frames, ignore_index=True)


def prepare(frame=None, freq="h"):
    frame = hourly_frame() if frame is None else frame
    config = DataConfig(freq=freq, season_length=24, calendar="none", target_col="load")
    panel = build_panel(frame, config, horizon=HORIZON)
    return panel, WindowStore(panel, CONTEXT, HORIZON), build_splits(panel, HORIZON, 12, 24)


def spread_predict(store):
    """Quantiles around the mean of the context, told apart by series and cutoff."""

    def predict(series, cutoff):
        inputs = store.gather(series, cutoff).inputs
        mean = (inputs.context * inputs.observed_mask).sum(1) / inputs.observed_mask.sum(1)
        steps = torch.arange(HORIZON) * 0.1 + cutoff[:, None] * 0.01
        return (mean[:, None] + steps)[..., None] + torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])

    return predict


@pytest.fixture(scope="module")
def case():
    panel, store, splits = prepare()
    origins = build_origins(panel, splits, "test", HORIZON, step_size=5)
    return panel, store, splits, origins, run_backtest(spread_predict(store), panel, store, splits, origins, LEVELS)


def test_scores_equal_those_computed_from_the_written_file(case, tmp_path):
    """MAE, MASE, WQL and coverage recomputed with pandas from the parquet file alone are the reported ones."""
    panel, _, splits, _, result = case
    result.write_parquet(tmp_path / "backtest" / "test.parquet")
    rows = pd.read_parquet(tmp_path / "backtest" / "test.parquet")
    scale = {}
    for k, name in enumerate(panel.ids):
        y = pd.Series(panel.values[panel.offsets[k] :][: splits.train_end[k]]).where(
            panel.observed[panel.offsets[k] :][: splits.train_end[k]]
        )
        scale[name] = (y - y.shift(24)).abs().mean()
    real = rows.dropna(subset="y")
    for column, scores in {"mean": result.metrics, **result.baselines, "linear": result.baselines["linear"]}.items():
        error = (real["y"].astype(float) - real[column]).abs()
        mase = (error.groupby(real["unique_id"]).mean() / pd.Series(scale)).mean()
        assert scores["mae"] == pytest.approx(error.mean(), rel=1e-6)
        assert scores["mase"] == pytest.approx(mase, rel=1e-5)
    loss = 0.0
    for level in LEVELS:
        error = real["y"].astype(float) - real[f"{level:g}"]
        loss += 2 * np.where(error >= 0, level * error, (level - 1) * error).sum() / len(LEVELS)
    assert result.metrics["wql"] == pytest.approx(loss / real["y"].abs().sum(), rel=1e-6)
    inside = real["y"].between(real["0.1"], real["0.9"]).mean()
    assert result.metrics["coverage_80"] == pytest.approx(inside)
    assert len(real) < len(rows)


def test_every_row_carries_its_own_time_and_truth(case):
    """For each row, ds is the cutoff plus its step, and y is the panel's value there, NaN where it was missing."""
    panel, _, _, origins, result = case
    frame = hourly_frame().set_index(["unique_id", "ds"])["y"]
    rows = result.to_frame()
    step = np.tile(np.arange(1, HORIZON + 1), len(origins))
    assert (rows["ds"] == rows["cutoff"] + pd.to_timedelta(step, unit="h")).all()
    truth = frame.loc[list(zip(rows["unique_id"], rows["ds"], strict=True))].to_numpy(np.float32)
    np.testing.assert_array_equal(rows["y"].to_numpy(), truth)
    assert list(rows.columns) == [
        *("unique_id", "ds", "cutoff", "y", "mean", "0.1", "0.25", "0.5", "0.75", "0.9"),
        *("naive", "seasonal_naive", "linear"),
    ]
    last_known = frame.loc[list(zip(rows["unique_id"], rows["cutoff"], strict=True))].to_numpy(np.float32)
    known = ~np.isnan(last_known)
    np.testing.assert_array_equal(rows["naive"].to_numpy()[known], last_known[known])
    assert set(rows["unique_id"]) == set(panel.ids)


def test_batch_size_changes_nothing_but_the_calls(case):
    """Batches of 3 give the forecasts of one batch, in order, and progress counts up to all windows."""
    panel, store, splits, origins, result = case
    seen, sizes = [], []
    predict = spread_predict(store)

    def counted(series, cutoff):
        sizes.append(len(series))
        return predict(series, cutoff)

    again = run_backtest(
        counted,
        panel,
        store,
        splits,
        origins,
        LEVELS,
        ["naive"],
        batch_size=3,
        on_progress=lambda *now: seen.append(now),
    )
    np.testing.assert_array_equal(again.quantiles, result.quantiles)
    assert max(sizes) == 3
    assert seen[-1] == (len(origins), len(origins))
    assert [done for done, _ in seen] == np.cumsum(sizes).tolist()
    assert list(again.baselines) == ["naive"]


def test_a_perfect_forecast_scores_zero_and_full_coverage(case):
    """Handing back the targets gives no error, no quantile loss and every target inside its interval."""
    panel, store, splits, origins, _ = case

    def oracle(series, cutoff):
        return store.gather(series, cutoff).target[..., None].expand(-1, -1, len(LEVELS))

    scores = run_backtest(oracle, panel, store, splits, origins, LEVELS, []).metrics
    assert {name: scores[name] for name in ("mae", "rmse", "mase", "rmsse", "wql", "crps")} == dict.fromkeys(
        ("mae", "rmse", "mase", "rmsse", "wql", "crps"), 0.0
    )
    assert (scores["coverage_80"], scores["coverage_50"]) == (1.0, 1.0)


def test_per_series_scores_average_to_the_whole(case):
    """The mean of the series' MASE is the reported MASE; weighted by targets, the MAE too."""
    *_, result = case
    rows = result.per_series_metrics()
    assert rows["mase"].mean() == pytest.approx(result.metrics["mase"])
    assert np.average(rows["mae"], weights=rows["num_targets"]) == pytest.approx(result.metrics["mae"])
    assert np.average(rows["smape"], weights=rows["num_targets"]) == pytest.approx(result.metrics["smape"])
    assert rows["num_windows"].sum() == len(result.origins)


def test_local_times_keep_their_offset():
    """Timestamps with a zone come out in that zone, across the hour that does not exist in spring."""
    frame = hourly_frame(starts=("2024-03-24 00:00", "2024-03-22 00:00"), lengths=(190, 230), timezone="Europe/Berlin")
    panel, store, splits = prepare(frame)
    origins = build_origins(panel, splits, "test", HORIZON)
    rows = run_backtest(spread_predict(store), panel, store, splits, origins, LEVELS, ["naive"]).to_frame()
    truth = frame.set_index(["unique_id", "ds"])["y"].loc[list(zip(rows["unique_id"], rows["ds"], strict=True))]
    np.testing.assert_array_equal(rows["y"].to_numpy(), truth.to_numpy(np.float32))
    assert str(rows["ds"].dt.tz) == "Europe/Berlin"


def test_integer_time_stays_integer():
    """A panel over integer time has integer ds and cutoff."""
    frame = pd.DataFrame(
        {"unique_id": "s", "ds": np.arange(1000, 1200), "y": np.random.default_rng(0).normal(0, 1, 200)}
    )
    panel, store, splits = prepare(frame, freq="1")
    origins = build_origins(panel, splits, "test", HORIZON)
    rows = run_backtest(spread_predict(store), panel, store, splits, origins, LEVELS, ["naive"]).to_frame()
    assert rows["ds"].tolist() == list(range(1176, 1200))
    assert rows["cutoff"].tolist()[::HORIZON] == [1175, 1181, 1187, 1193]


def test_series_without_scale_is_counted():
    """A constant series is forecast and scored by MAE, left out of MASE, and the table says so."""
    frame = hourly_frame()
    flat = pd.DataFrame({"unique_id": "flat", "ds": pd.date_range("2024-01-01", periods=150, freq="h"), "y": 5.0})
    panel, store, splits = prepare(pd.concat([frame, flat], ignore_index=True))
    origins = build_origins(panel, splits, "test", HORIZON)
    result = run_backtest(spread_predict(store), panel, store, splits, origins, LEVELS, ["naive"])
    assert (result.num_scored_series, result.num_skipped_series) == (2, 1)
    assert np.isfinite(result.metrics["mase"])
    assert "1 series without a scale skipped" in format_backtest(result)


def test_linear_falls_back_on_naive_where_its_context_is_empty():
    """A sensor that was silent for a whole context is forecast by its last value, not by NaN."""
    frame = hourly_frame()
    frame.loc[(frame["unique_id"] == "b") & (frame.groupby("unique_id").cumcount().between(150, 200)), "y"] = np.nan
    panel, store, splits = prepare(frame)
    origins = build_origins(panel, splits, "test", HORIZON, n_windows=4)
    result = run_backtest(spread_predict(store), panel, store, splits, origins, LEVELS)
    silent = (origins.series == panel.ids.index("b")) & (origins.cutoff <= 201)
    assert silent.any()
    linear, naive = result.baseline_forecasts["linear"], result.baseline_forecasts["naive"]
    np.testing.assert_array_equal(linear[silent], naive[silent])
    assert (linear[~silent] != naive[~silent]).all()


def test_median_is_interpolated_where_it_was_not_forecast():
    """Between levels 0.4 and 0.8 the median lies a quarter of the way; above all levels, the highest stands in."""
    quantiles = np.array([[[10.0, 20.0]]])
    assert median_of(quantiles, (0.4, 0.8)).item() == 12.5
    assert median_of(quantiles, (0.1, 0.2)).item() == 20.0
    assert median_of(quantiles, (0.5, 0.9)).item() == 10.0


def test_forecast_of_another_shape_is_refused(case):
    """A network with another horizon is named, not broadcast."""
    panel, store, splits, origins, _ = case
    with pytest.raises(BacktestError, match="predict must be"):
        run_backtest(lambda s, _: torch.zeros(len(s), 1, 5), panel, store, splits, origins, LEVELS, [])


def test_unknown_baseline_is_refused(case):
    """A misspelt baseline is an error before anything is computed."""
    panel, store, splits, origins, _ = case
    with pytest.raises(BacktestError, match="'seasonal' instead"):
        run_backtest(spread_predict(store), panel, store, splits, origins, LEVELS, ["seasonal"])


def test_windows_without_any_target_are_refused(case):
    """Scores of nothing are an error, not a table of NaN."""
    panel, store, splits, _, _ = case
    frame = hourly_frame()
    frame.loc[frame.index[-13:-1], "y"] = np.nan
    panel, store, splits = prepare(frame[frame["unique_id"] == "a"])
    origins = build_origins(panel, splits, "test", HORIZON, n_windows=2)
    origins = origins.select(np.array([True, False]))
    with pytest.raises(DataError, match="no observed value to score"):
        run_backtest(spread_predict(store), panel, store, splits, origins, LEVELS, [])


def test_table_stars_the_best_and_names_the_units(case):
    """The lowest MASE carries the star, coverage none, and the last line compares with the best baseline."""
    *_, result = case
    text = format_backtest(result, model_name="gru")
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()[:1]}
    column = list(result.metrics).index("mase") + 1
    scores = {"gru": result.metrics["mase"]} | {name: value["mase"] for name, value in result.baselines.items()}
    starred = [name for name in scores if rows[name].split()[column].endswith("*")]
    assert starred == [min(scores, key=scores.__getitem__)]
    assert "unit of y" in text
    assert "want 0.8" in text
    rival = min(result.baselines, key=lambda name: result.baselines[name]["mase"])
    ratio = 100 * (result.metrics["mase"] / result.baselines[rival]["mase"] - 1)
    assert f"{abs(ratio):.1f} % {'below' if ratio < 0 else 'above'} the best baseline ({rival}" in text.splitlines()[-1]


def test_wql_of_baselines_takes_their_point_for_every_quantile(case):
    """A baseline's WQL is what metrics.wql gives for its forecast repeated along the levels."""
    *_, result = case
    repeated = np.repeat(result.baseline_forecasts["naive"][..., None], len(LEVELS), axis=-1)
    expected = metrics.wql(result.y, repeated, LEVELS, result.observed)
    assert result.baselines["naive"]["wql"] == pytest.approx(expected)
