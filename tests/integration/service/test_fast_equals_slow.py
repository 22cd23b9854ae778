"""The short way of a small request, the long way of a large one, `gradcast forecast`: one forecast for every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
import torch

from app.services.forecasting import MAX_INLINE_BYTES
from app.services.network import ServingNetwork
from models.bundle import BundleManifest, load_bundle, save_bundle
from models.config import GRUConfig, LinearConfig, LSTMConfig, NetworkConfig, RNNConfig
from models.conformal import SplitConformal
from models.forecaster import Forecaster, ForecastInputs
from models.registry import build_forecaster
from tests.integration.service.service_bundles import (
    COLUMNS,
    CONTEXT,
    HORIZON,
    TestClient,
    full_series,
    series,
    write_bundle,
)
from training.config import FillPolicy
from training.forecasting import forecast_frame

LEVELS = (0.1, 0.5, 0.9)
HOLIDAYS = {"XX": {f"{year}-01-01": "New Year" for year in range(2020, 2031)}}
SIZES = {"context_length": CONTEXT, "horizon": HORIZON, "quantile_levels": LEVELS}
PLAIN = [
    RNNConfig(**SIZES, hidden_size=8, nonlinearity="relu", scaler="mean_abs"),
    GRUConfig(**SIZES, hidden_size=16, scaler="robust"),
    LSTMConfig(**SIZES, hidden_size=64, num_layers=2, scaler="revin"),
    LSTMConfig(**SIZES, hidden_size=8, head="point", scaler="last"),
    LSTMConfig(**SIZES, hidden_size=8, head="point", conformal="split"),
    GRUConfig(**SIZES, hidden_size=8, conformal="split"),
    LinearConfig(**SIZES, scaler="none"),
]


def build_request(maker: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole, long, short and gappy series."""
    gappy = maker("gappy", 20)
    for place in (9, 14, 15):
        gappy["y"][place] = None
    return [maker("whole"), maker("long", 40), maker("short", 5), gappy]


def as_frame(many: list[dict[str, Any]], has_covariates: bool) -> pd.DataFrame:
    """The same series as a file that `gradcast forecast` reads."""
    frames = []
    for one in many:
        rows = len(one["y"]) + (HORIZON if has_covariates else 0)
        frame = pd.DataFrame({"ds": pd.date_range(one["start"], periods=rows, freq="h"), "unique_id": one["unique_id"]})
        frame["y"] = pd.Series(one["y"], dtype=float).reindex(range(rows))
        if has_covariates:
            for name, values in {**one["futr_exog"], **one["hist_exog"]}.items():
                frame[name] = pd.Series(values).reindex(range(rows))
            frame = frame.assign(**one["stat_exog"])
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def ask(client: TestClient, many: list[dict[str, Any]], is_large: bool = False) -> list[dict[str, Any]]:
    """Forecasts; spaces make a request large without changing what it says."""
    body = orjson.dumps({"series": many}) + b" " * (MAX_INLINE_BYTES if is_large else 0)
    answer = client.post("/forecast", content=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["forecasts"]


def numbers(forecasts: list[dict[str, Any]]) -> np.ndarray:
    """Mean and quantiles of every series, float32."""
    return np.array([[one["mean"], *one["quantiles"].values()] for one in forecasts], np.float32)


def validate_ways(client: TestClient, directory: Path, many: list[dict[str, Any]], has_covariates: bool) -> None:
    """Every way to a forecast gives the same one."""
    together = ask(client, many)
    assert ask(client, many, is_large=True) == together
    assert [ask(client, [one])[0] for one in many] == together
    table = forecast_frame(load_bundle(directory), as_frame(many, has_covariates)).set_index("unique_id")
    for one in together:
        expected = table.loc[one["unique_id"]]
        assert list(pd.to_datetime(one["ds"])) == list(expected["ds"])
        slow = expected[["mean", *one["quantiles"]]].to_numpy().T
        np.testing.assert_allclose(numbers([one])[0], slow, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("network", PLAIN, ids=lambda network: f"{network.architecture}-{network.head}-{network.conformal}")
def test_every_network_answers_one_way(
    tmp_path: Path, launch: Callable[..., TestClient], network: NetworkConfig
) -> None:
    """Alone, in company, through the threads, and on the command line, also with conformal shifts."""
    directory = write_shifted(tmp_path / "m", network)
    validate_ways(launch(directory), directory, build_request(series), False)


@pytest.mark.parametrize("fill", ["mask", "ffill", "linear", "zero"])
def test_covariates_holidays_and_fills_answer_one_way(
    tmp_path: Path, launch: Callable[..., TestClient], fill: FillPolicy
) -> None:
    """With every kind of covariate, a calendar with holidays, and gaps filled by the bundle's rule."""
    columns = COLUMNS.model_copy(
        update={"calendar": (*COLUMNS.calendar, "holiday_XX"), "holidays": HOLIDAYS}
    )
    network = LSTMConfig(
        **SIZES,
        hidden_size=8,
        conformal="split",
        num_past_covariates=len(columns.past_features),
        num_future_covariates=len(columns.future_features),
        num_static_covariates=len(columns.static_features),
    )
    directory = write_bundle(tmp_path / "m", columns, network=network, fill=fill)
    validate_ways(launch(directory), directory, build_request(full_series), True)


@pytest.mark.parametrize("network", PLAIN, ids=lambda network: f"{network.architecture}-{network.head}-{network.conformal}")
def test_a_served_network_keeps_its_shifts(network: NetworkConfig) -> None:
    """What is traced at load gives the numbers of the network it was traced from, to float32's last digits."""
    torch.manual_seed(0)
    forecaster = shifted(build_forecaster(network).eval())
    served = ServingNetwork(forecaster)
    assert served.is_traced
    inputs = probe(7)
    with torch.no_grad():
        expected = forecaster(inputs).numpy()
    np.testing.assert_allclose(served(inputs).swapaxes(1, 2), expected, rtol=1e-5, atol=1e-5)


def probe(count: int) -> ForecastInputs:
    """Windows with a gap."""
    context = torch.randn(count, CONTEXT, generator=torch.Generator().manual_seed(1)) * 3 + 50
    mask = torch.ones(count, CONTEXT, dtype=torch.bool)
    mask[::2, 3] = False
    nothing = (torch.zeros(count, CONTEXT, 0), torch.zeros(count, HORIZON, 0), torch.zeros(count, 0))
    return ForecastInputs(context, mask, *nothing)


def shifted(forecaster: Forecaster) -> Forecaster:
    """The same network with conformal shifts that nobody can overlook, if it has any."""
    if isinstance(forecaster.calibration, SplitConformal):
        forecaster.calibration.shift.copy_(torch.linspace(-2, 2, len(LEVELS)).expand(HORIZON, -1))
    return forecaster


def write_shifted(directory: Path, network: NetworkConfig) -> Path:
    """A bundle of that network."""
    torch.manual_seed(0)
    manifest = BundleManifest(network=network, freq="h", season_length=24, trained_until="2026-01-31T23:00:00")
    save_bundle(directory, shifted(build_forecaster(network).eval()), manifest)
    return directory
