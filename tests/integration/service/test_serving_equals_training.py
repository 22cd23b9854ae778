"""What the network reads when it is served is what it read in training: gaps are filled the same way, on every road."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from app.schemas.forecast import SeriesRequest
from app.services.context import ContextStore
from app.services.encoding import RequestEncoder
from app.services.series_error import SeriesError
from models.bundle import BundleManifest, load_bundle, read_manifest
from models.forecaster import ForecastInputs
from tests.integration.service.service_bundles import CONTEXT, HORIZON, write_bundle
from training.config import DataConfig
from training.data.context import read_context, write_context
from training.data.panel import build_panel
from training.data.windows import WindowStore
from training.forecasting import build_request_panel, forecast_panel

LENGTH = 40
GAPS = [3, 12, 13, 14, 25, 26, 30]


def training_panel(fill: str):
    """One hourly series with gaps, as training reads it."""
    y = np.round(np.sin(np.arange(LENGTH) * 0.7) * 10 + 50, 3)
    y[GAPS] = np.nan
    frame = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2026-01-01", periods=LENGTH, freq="h"), "y": y})
    return frame, build_panel(frame, DataConfig(freq="h", fill=fill, calendar="none"), horizon=HORIZON)


def encoder(directory, fill: str, context=None) -> RequestEncoder:
    bundle = load_bundle(write_bundle(directory / "bundle", fill=fill))
    return RequestEncoder(bundle.manifest, bundle.forecaster, ContextStore(context), 10_000)


def request(y, **changes) -> SeriesRequest:
    values = [None if np.isnan(value) else float(value) for value in y]
    return SeriesRequest(unique_id="a", start="2026-01-01T00:00:00", y=values, **changes)


def same(left: ForecastInputs, right: ForecastInputs) -> None:
    for name in ("context", "observed_mask"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name


@pytest.mark.parametrize("fill", ["mask", "ffill", "linear", "zero"])
@pytest.mark.parametrize("cutoff", [LENGTH, 32, 31, 27, 26, 15, 14, 13, 5])
def test_a_request_is_filled_as_the_training_window_was(tmp_path, fill, cutoff):
    """Context and mask of a request that ends anywhere, also inside a gap, are equal to the bit to the training window's."""
    frame, panel = training_panel(fill)
    window = WindowStore(panel, CONTEXT, HORIZON).gather(torch.tensor([0]), torch.tensor([cutoff])).inputs
    served = encoder(tmp_path, fill)
    same(served.build_inputs([served.encode(request(frame["y"][:cutoff]), "series.0", HORIZON)]), window)


@pytest.mark.parametrize("fill", ["mask", "ffill", "linear", "zero"])
def test_a_series_known_by_name_is_what_training_ended_with(tmp_path, fill):
    """The window starts inside a gap; its first values are still those the network was shown, and gaps stay gaps."""
    _, panel = training_panel(fill)
    (tmp_path / "context.parquet").write_bytes(write_context(panel, None, LENGTH - GAPS[-2]))
    context = read_context(tmp_path / "context.parquet")
    assert context["y"].isna().sum() == {"mask": 2, "ffill": 3, "linear": 3, "zero": 0}[fill]
    served = encoder(tmp_path, fill, context)
    encoded = served.encode(SeriesRequest(unique_id="a"), "series.0", HORIZON)
    window = WindowStore(panel, CONTEXT, HORIZON).gather(torch.tensor([0]), torch.tensor([LENGTH])).inputs
    same(served.build_inputs([encoded]), window)


@pytest.mark.parametrize("fill", ["mask", "ffill", "linear", "zero"])
def test_the_command_line_forecasts_as_the_service_does(tmp_path, fill):
    """`gradcast forecast` and the pyfunc fill by the bundle too: their forecast is that of the encoded request."""
    frame, _ = training_panel(fill)
    bundle = load_bundle(write_bundle(tmp_path / "bundle", fill=fill))
    served = RequestEncoder(bundle.manifest, bundle.forecaster, ContextStore(None), 10_000)
    inputs = served.build_inputs([served.encode(request(frame["y"]), "series.0", HORIZON)])
    with torch.no_grad():
        expected = bundle.forecaster(inputs).numpy()
    found = forecast_panel(bundle, build_request_panel(bundle.manifest, frame)).quantiles
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_gap_is_refused_where_training_would_have(tmp_path):
    """With `error`, a request with a gap is that series' error; values missing before its first one are none."""
    frame, _ = training_panel("mask")
    served = encoder(tmp_path, "error")
    with pytest.raises(SeriesError) as refused:
        served.encode(request(frame["y"]), "series.0", HORIZON)
    assert (refused.value.code, refused.value.path) == ("target_missing", "series.0.y")
    served.encode(request(np.r_[np.nan, np.nan, np.arange(20.0)]), "series.0", HORIZON)


def test_a_filled_gap_is_still_said(tmp_path):
    """The warning counts what was missing, and says how it was filled."""
    frame, _ = training_panel("ffill")
    served = encoder(tmp_path, "ffill")
    warnings = served.encode(request(frame["y"]), "series.0", HORIZON).warnings
    assert warnings["context_missing"] == "1 of the last 12 steps have no value. They are filled as in training: ffill."


def test_a_bundle_of_the_first_schema_still_loads(tmp_path):
    """Without fill, calibration and conformal, version 1 loads with their defaults and forecasts the same."""
    directory = write_bundle(tmp_path / "bundle")
    document = json.loads((directory / "bundle.json").read_text())
    for key in ("fill", "calibration"):
        del document[key]
    del document["network"]["conformal"]
    (directory / "bundle.json").write_text(json.dumps(document | {"schema_version": 1, "manifest_sha256": ""}))
    manifest = load_bundle(directory).manifest
    assert (manifest.schema_version, manifest.fill, manifest.network.conformal) == (1, "mask", "none")
    assert BundleManifest(network=manifest.network).schema_version == 2
    assert read_manifest(directory).calibration == {}
