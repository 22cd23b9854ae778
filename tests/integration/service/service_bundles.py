"""Tiny real bundles and requests for them."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from models.bundle import BundleManifest, save_bundle
from models.columns import Columns
from models.config import LSTMConfig, NetworkConfig
from models.forecaster import CovariateStatistics
from models.registry import build_forecaster

with warnings.catch_warnings():
    # Starlette's client prefers httpx2 and says so at import; httpx does the same work.
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

CONTEXT, HORIZON = 12, 5
COLUMNS = Columns(
    futr_exog=("temp", "weather"),
    hist_exog=("flow",),
    stat_exog=("size", "kind"),
    categories={"weather": ("rain", "sun"), "kind": ("a", "b")},
    calendar=("hour_of_day_sin", "hour_of_day_cos"),
)


def write_bundle(
    directory: Path,
    columns: Columns | None = None,
    seed: int = 0,
    context: pd.DataFrame | bytes | None = None,
    network: NetworkConfig | None = None,
    **manifest: Any,
) -> Path:
    """Save a network with random weights, which hears every channel loudly enough for tests to see."""
    columns = columns or Columns()
    torch.manual_seed(seed)
    config = network or LSTMConfig(
        context_length=CONTEXT,
        horizon=HORIZON,
        hidden_size=8,
        num_past_covariates=len(columns.past_features),
        num_future_covariates=len(columns.future_features),
        num_static_covariates=len(columns.static_features),
    )
    forecaster = build_forecaster(config)
    with torch.no_grad():
        for parameter in forecaster.parameters():
            parameter.mul_(2.0)
    forecaster.set_covariate_statistics(
        CovariateStatistics(
            *(torch.full((count,), value) for count, value in (
                (config.num_past_covariates, 0.5), (config.num_past_covariates, 2.0),
                (config.num_static_covariates, 0.5), (config.num_static_covariates, 2.0),
            ))
        )
    )  # fmt: skip
    extra = {}
    if context is not None:
        extra = {"context.parquet": context if isinstance(context, bytes) else context.to_parquet()}
    described = {
        "freq": "h", "season_length": 24, "trained_until": "2026-01-31T23:00:00", "num_series": 2,
        "gradient": {"verdict": "healthy", "reach_steps": 12}, "metrics": {"val/mae": 1.0},
        "baselines": {"seasonal_naive": {"val/mae": 2.0}},
    }  # fmt: skip
    save_bundle(
        directory, forecaster, BundleManifest(network=config, columns=columns, **{**described, **manifest}), extra
    )
    return directory


def build_context(columns: Columns, num_steps: int = CONTEXT) -> pd.DataFrame:
    """Stored rows of the series `known` and `other`."""
    frames = []
    for number, name in enumerate(("known", "other")):
        steps = np.arange(num_steps)
        frame = pd.DataFrame(
            {
                "unique_id": name,
                "ds": pd.date_range("2026-01-31T12:00:00", periods=num_steps, freq="h"),
                "y": np.sin(steps + number).astype("float32"),
            }
        )
        values = {"temp": steps * 1.0, "weather": "sun", "flow": steps * 2.0, "size": 3.0, "kind": "ab"[number]}
        for column in (*columns.futr_exog, *columns.hist_exog, *columns.stat_exog):
            frame[column] = values[column]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def series(unique_id: str = "a", num_steps: int = CONTEXT, **changes: Any) -> dict[str, Any]:
    """A series that the plain model can forecast."""
    y = [round(float(np.sin(step * 0.7)) * 10 + 50, 4) for step in range(num_steps)]
    return {"unique_id": unique_id, "start": "2026-01-01T00:00:00", "freq": "h", "y": y} | changes


def full_series(
    unique_id: str = "a", num_steps: int = CONTEXT, horizon: int = HORIZON, **changes: Any
) -> dict[str, Any]:
    """A series that the model with covariates can forecast."""
    total = num_steps + horizon
    covariates = {
        "futr_exog": {
            "temp": [float(step % 7) for step in range(total)],
            "weather": ["sun" if step % 3 else "rain" for step in range(total)],
        },
        "hist_exog": {"flow": [float(step) for step in range(num_steps)]},
        "stat_exog": {"size": 3.0, "kind": "b"},
    }
    return series(unique_id, num_steps) | covariates | changes


def wait_ready(client: TestClient, seconds: float = 20.0) -> None:
    """Wait until the catalog has loaded what it serves."""
    end = time.monotonic() + seconds
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end, client.get("/readyz").text
        time.sleep(0.01)
