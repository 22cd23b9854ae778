"""Vectors of series on the whole road: learned, kept in the bundle, served by name, and shared by series nobody knows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from app.schemas.forecast import SeriesRequest
from app.services.context import ContextStore
from app.services.encoding import RequestEncoder
from models.bundle import Bundle, load_bundle
from training import pipeline
from training.config import load_config
from training.data.context import read_context
from training.forecasting import forecast_frame
from training.pipeline import TrainingResult

CONTEXT, HORIZON, ROWS = 8, 2, 160
LEVELS = {"low": 0.1, "high": 0.9}


def noise_with_a_name(name: str, start: str = "2026-01-01", rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """White noise around one half, and the series' own value in every other step."""
    random = np.random.default_rng([seed, len(name)])
    y = random.normal(0.5, 0.2, rows)
    y[1::2] = LEVELS.get(name, 0.5)
    return pd.DataFrame({"unique_id": name, "ds": pd.date_range(start, periods=rows, freq="h"), "y": y.round(6)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, Bundle]:
    """Two series of the same noise, each with a value of its own in every other step."""
    directory = tmp_path_factory.mktemp("series")
    frame = pd.concat([noise_with_a_name(name) for name in LEVELS])
    frame["ds"] = frame["ds"].astype(str)
    frame.to_csv(directory / "two.csv", index=False)
    settings = [
        f"data.path={directory / 'two.csv'}", "data.calendar=none", f"model.context_length={CONTEXT}", f"model.horizon={HORIZON}",
        "model.hidden_size=8", "model.series_embedding=2", "model.scaler=none", "model.initialization=torch", "model.skip=none",
        "fit.max_steps=150", "fit.val_check_steps=50", "fit.batch_size=32", "optimizer.learning_rate=0.02",
        "gradients.preset=economy", "tracking.register=false",
    ]  # fmt: skip
    result = pipeline.train(load_config(None, settings), output=directory / "run")
    return result, load_bundle(directory / "run" / "bundle")


def last_windows(result: TrainingResult) -> torch.Tensor:
    store, lengths = result.prepared.store, torch.from_numpy(result.prepared.panel.lengths)
    with torch.inference_mode():
        return result.prepared.forecaster.cpu().eval()(store.gather(torch.arange(len(lengths)), lengths).inputs)


def test_the_bundle_forecasts_as_the_trained_network_does(trained: tuple[TrainingResult, Bundle]) -> None:
    """Numbers from names by the table in bundle.json, vectors from the safetensors: equal to the bit."""
    result, bundle = trained
    assert bundle.manifest.columns.series == ("low", "high")
    assert bundle.forecaster.series_embedding.weight.shape == (3, 2)
    frame = pd.concat([noise_with_a_name(name) for name in ("low", "high")])
    found = forecast_frame(bundle, frame)
    levels = [f"{level:g}" for level in bundle.manifest.network.output_levels]
    expected = last_windows(result).numpy().reshape(-1, len(levels))
    assert np.array_equal(found[levels].to_numpy(np.float32), expected)
    assert bundle.forecaster.series_embedding.weight[1:].abs().max() > 0.05
    assert bundle.forecaster.series_embedding.weight[0].abs().max() > 0


def test_the_same_past_under_another_name_is_another_forecast(trained: tuple[TrainingResult, Bundle]) -> None:
    """And a name that nobody knows has that of neither; the data says so."""
    _, bundle = trained
    past = noise_with_a_name("neither", seed=3)
    renamed = pd.concat([past.assign(unique_id=name) for name in ("low", "high", "cold", "colder")])
    mean = forecast_frame(bundle, renamed).groupby("unique_id")["mean"].mean()
    assert mean["low"] < mean["cold"] < mean["high"]
    assert mean["cold"] == mean["colder"]


def test_the_service_reads_the_same_numbers(trained: tuple[TrainingResult, Bundle]) -> None:
    """By name alone, by name with a past, and a warning where the name is new."""
    result, bundle = trained
    encoder = RequestEncoder(bundle.manifest, bundle.forecaster, ContextStore(read_context(bundle.context_path)), 10_000)
    past = noise_with_a_name("low")
    given = {"start": "2026-01-01T00:00:00", "y": past["y"].tolist()}
    known = encoder.encode(SeriesRequest(unique_id="low"), "series.0", HORIZON)
    same = encoder.encode(SeriesRequest(unique_id="low", **given), "series.1", HORIZON)
    new = encoder.encode(SeriesRequest(unique_id="new", **given), "series.2", HORIZON)
    with torch.inference_mode():
        forecast = bundle.forecaster(encoder.build_inputs([known, same, new]))
    low = result.prepared.panel.ids.index("low")
    assert torch.equal(forecast[0], last_windows(result)[low])
    assert torch.equal(forecast[1], forecast[0])
    assert not torch.equal(forecast[2], forecast[0])
    assert [set(each.warnings) for each in (known, same, new)] == [set(), set(), {"series_unseen"}]


def test_a_fingerprint_is_that_of_the_data(trained: tuple[TrainingResult, Bundle]) -> None:
    """Whether series have vectors is no property of the rows."""
    panel = trained[0].prepared.panel
    plain = panel.numbered().fingerprint
    assert panel.fingerprint == plain
    assert panel.static[:, -1].tolist() == [1.0, 2.0]
