"""fit and predict from a program: the pipeline's own numbers, in frames that scikit-learn and Nixtla's tools understand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from utilsforecast.evaluation import evaluate
from utilsforecast.losses import mae, scaled_crps

from models.errors import BundleError
from training.data.frames import read_rows
from training.errors import ConfigurationError, DataError
from training.estimator import Forecaster, NotFittedError
from training.forecasting import LevelError, forecast_frame

HORIZON, ROWS = 4, 120


def table() -> pd.DataFrame:
    """Two series with a price that moves them."""
    random = np.random.default_rng(0)
    parts = []
    for name, level in (("a", 10.0), ("b", 50.0)):
        price = random.integers(0, 2, ROWS).astype(float)
        y = level + 3 * np.sin(np.arange(ROWS) * np.pi / 6) - 2 * price + 0.1 * random.standard_normal(ROWS)
        ds = pd.date_range("2026-01-01", periods=ROWS, freq="h")
        parts.append(pd.DataFrame({"unique_id": name, "ds": ds, "y": y, "price": price}))
    return pd.concat(parts, ignore_index=True)


def split(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows but the last of each series, and those."""
    position = frame.groupby("unique_id").cumcount()
    return frame[position < ROWS - HORIZON], frame[position >= ROWS - HORIZON]


def small(**changes: object) -> Forecaster:
    settings = {"model.hidden_size": 8, "fit.val_check_steps": 20, "fit.batch_size": 16, "model.initialization": "torch"}
    made = {"horizon": HORIZON, "context_length": 24, "max_steps": 40, "futr_exog": ["price"], "settings": settings}
    return Forecaster(**(made | changes))


@pytest.fixture(scope="module")
def fitted() -> Forecaster:
    return small().fit(split(table())[0])


def test_a_forecast_is_that_of_the_bundle_in_the_columns_of_nixtla(fitted: Forecaster) -> None:
    """The median under the model's name, intervals as lo and hi, every step of every series of the fit."""
    past, future = split(table())
    found = fitted.predict(futr_df=future[["unique_id", "ds", "price"]], level=[80], quantiles=[0.25])
    named = ["gradcast", "gradcast-lo-80", "gradcast-hi-80", "gradcast-ql0.25"]
    assert list(found.columns) == ["unique_id", "ds", *named]
    assert found[["unique_id", "ds"]].astype(str).equals(future[["unique_id", "ds"]].reset_index(drop=True).astype(str))
    whole = pd.concat([past, future.assign(y=np.nan)])
    expected = forecast_frame(fitted.bundle_, whole)
    assert np.array_equal(found[named].to_numpy(), expected[["0.5", "0.1", "0.9", "0.25"]].to_numpy())
    again = fitted.predict(df=whole)
    assert np.array_equal(again["gradcast"].to_numpy(), expected["0.5"].to_numpy())
    assert len(fitted.predict(2, df=whole)) == 4


def test_utilsforecast_evaluates_it_as_it_is(fitted: Forecaster) -> None:
    """No column is renamed; the mean absolute error is that of the two columns."""
    _, future = split(table())
    forecast = fitted.predict(futr_df=future.drop(columns="y"), level=[50, 80])
    joined = forecast.merge(future[["unique_id", "ds", "y"]], on=["unique_id", "ds"])
    scores = evaluate(joined, metrics=[mae, scaled_crps], level=[50, 80])
    by_hand = (joined["y"] - joined["gradcast"]).abs().groupby(joined["unique_id"]).mean()
    found = scores[scores["metric"] == "mae"].set_index("unique_id")["gradcast"]
    assert found.to_numpy() == pytest.approx(by_hand.to_numpy())
    assert scores[scores["metric"] == "scaled_crps"]["gradcast"].notna().all()


def test_frames_of_polars_go_in_and_come_out(fitted: Forecaster) -> None:
    """The same numbers; categories and texts of polars' own kinds too."""
    past, future = split(table())
    given = pl.from_pandas(past).with_columns(pl.col("unique_id").cast(pl.Categorical))
    ahead = pl.from_pandas(future[["unique_id", "ds", "price"]])
    found = fitted.predict(df=given, futr_df=ahead, level=[80])
    assert isinstance(found, pl.DataFrame)
    expected = fitted.predict(df=past, futr_df=future[["unique_id", "ds", "price"]], level=[80])
    assert found["gradcast-hi-80"].to_list() == expected["gradcast-hi-80"].tolist()
    pd.testing.assert_frame_equal(read_rows(given, fitted._data), read_rows(past, fitted._data))


def test_saved_and_loaded_it_forecasts_the_same_to_the_bit(fitted: Forecaster, tmp_path: Path) -> None:
    """And a directory that is there is not overwritten."""
    _, future = split(table())
    fitted.save(tmp_path / "bundle")
    loaded = Forecaster.load(tmp_path / "bundle")
    ahead = future[["unique_id", "ds", "price"]]
    pd.testing.assert_frame_equal(loaded.predict(futr_df=ahead, level=[80]), fitted.predict(futr_df=ahead, level=[80]))
    assert (loaded.horizon, loaded.context_length, tuple(loaded.futr_exog)) == (HORIZON, 24, ("price",))
    with pytest.raises(ConfigurationError, match="must not exist yet"):
        fitted.save(tmp_path / "bundle")
    (tmp_path / "bundle" / "golden.json").write_text(json.dumps({}))
    with pytest.raises(BundleError):
        Forecaster.load(tmp_path / "bundle")


def test_scikit_learn_clones_it(fitted: Forecaster) -> None:
    """A clone has the parameters and not what was fitted; parameters are set by name."""
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    assert twin.__sklearn_is_fitted__() is False
    assert fitted.__sklearn_is_fitted__() is True
    assert twin.set_params(horizon=7, seed=3).get_params()["horizon"] == 7
    assert repr(Forecaster(horizon=7)) == "Forecaster(horizon=7)"
    with pytest.raises(ConfigurationError, match="horizn: is no parameter"):
        twin.set_params(horizn=7)


def test_the_result_tells_what_the_command_tells(fitted: Forecaster) -> None:
    """Metrics beside the baselines, the verdict, and the choices that were made."""
    document = fitted.result_.to_dict()
    assert set(document["baselines"]) == {"naive", "seasonal_naive", "linear"}
    assert document["gradients"]["verdict"]
    assert any(note.startswith("data.freq = h") for note in fitted.notes_)


def test_other_names_of_columns_come_back(tmp_path: Path) -> None:
    """`data.id_col` and the others; a run kept in a directory holds all that a run holds."""
    frame = table().rename(columns={"unique_id": "shop", "ds": "hour", "y": "sold"}).drop(columns="price")
    names = {"data.id_col": "shop", "data.time_col": "hour", "data.target_col": "sold"}
    settings = small().settings | names
    model = small(futr_exog=(), settings=settings, directory=tmp_path / "kept", architecture="linear", name="mine").fit(frame)
    assert list(model.predict().columns) == ["shop", "hour", "mine"]
    assert (tmp_path / "kept" / "run" / "gradients" / "readings.parquet").exists()


@pytest.mark.parametrize(
    ("attempt", "error", "says"),
    [
        (lambda model: Forecaster().predict(), NotFittedError, "must be fitted"),
        (lambda model: model.predict(HORIZON + 1), ConfigurationError, "from 1 to 4"),
        (lambda model: model.predict(level=[99]), LevelError, "between 0.1 and 0.9"),
        (lambda model: model.predict(level=[100]), ConfigurationError, "between 0 and 100"),
        (lambda model: model.predict(), DataError, "must have price for 4 steps"),
        (lambda model: model.predict(df=[1, 2]), DataError, "frame of pandas, polars or Arrow, but is list"),
        (lambda model: Forecaster(settings={"model.hiden_size": 3}).fit(table()), ConfigurationError, "is not a known key"),
        (lambda model: Forecaster(horizon=-1).fit(table()), ConfigurationError, "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(fitted: Forecaster, attempt, error: type[Exception], says: str) -> None:
    """Typed, with what to do, before anything is trained."""
    with pytest.raises(error, match=says):
        attempt(fitted)
