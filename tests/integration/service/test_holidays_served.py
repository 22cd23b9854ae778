"""Holidays: the right days on the right clock, kept with the model, and the same when it is served."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from app.schemas.forecast import SeriesRequest
from app.services.context import ContextStore
from app.services.encoding import RequestEncoder
from app.services.series_error import SeriesError
from models.bundle import load_bundle
from tests.integration.service.service_bundles import CONTEXT, HORIZON, write_bundle
from training import extras
from training.config import DataConfig, build_config
from training.data.panel import build_panel
from training.data.splits import build_splits
from training.data.windows import WindowStore, covariate_statistics
from training.errors import ConfigurationError, DataError
from training.forecasting import build_request_panel, forecast_panel

pytestmark = pytest.mark.skipif(importlib.util.find_spec("holidays") is None, reason="needs the extra gradcast[holidays]")


def frame_of(start="2024-06-20", length=400, freq="h", timezone=None):
    ds = pd.date_range(start, periods=length, freq=freq, tz=timezone)
    return pd.DataFrame({"unique_id": "a", "ds": ds, "y": np.sin(np.arange(length) * 0.7) + 5.0})


def panel_of(frame, places=("US",), freq="h"):
    return build_panel(frame, DataConfig(freq=freq, calendar="none", holidays=places), horizon=HORIZON)


def test_the_fourth_of_july_is_flagged_for_its_whole_day_and_no_other():
    """From midnight to 23:00 the flag is 1; the days around it, which only another country keeps, are 0."""
    panel = panel_of(frame_of(), ("US", "CA"))
    assert panel.columns.calendar == ("holiday_US", "holiday_CA")
    assert panel.columns.holidays["US"]["2024-07-04"] == "Independence Day"
    us, canada = (pd.Series(panel.calendar[:400, k], pd.date_range("2024-06-20", periods=400, freq="h")) for k in (0, 1))
    assert set(us[us == 1].index.date.astype(str)) == {"2024-07-04"}
    assert us.sum() == 24
    assert "2024-07-01" in set(canada[canada == 1].index.date.astype(str))


def test_the_day_is_that_of_the_local_clock():
    """Timestamps with an offset are flagged by the date they show, not by the date in UTC."""
    panel = panel_of(frame_of(timezone="America/New_York"))
    local = pd.date_range("2024-06-20", periods=400, freq="h")
    flagged = local[np.flatnonzero(panel.calendar[:400, 0])]
    assert set(flagged.date.astype(str)) == {"2024-07-04"}
    assert len(flagged) == 24


def test_a_region_has_holidays_of_its_own():
    """Bavaria keeps Epiphany, Berlin does not."""
    panel = panel_of(frame_of("2024-01-01", 240), ("DE-BY", "DE-BE"))
    assert panel.calendar[5 * 24 : 6 * 24].tolist() == [[1.0, 0.0]] * 24


def test_serving_computes_what_training_computed_without_the_library(tmp_path, monkeypatch):
    """Over a holiday in the context and one in the horizon, a request's channels equal the training window's to the bit."""
    frame = frame_of("2024-06-27", 200)
    panel = panel_of(frame)
    window = WindowStore(panel, CONTEXT, HORIZON).gather(torch.tensor([0]), torch.tensor([7 * 24 - 2])).inputs
    assert 0 < window.future_covariates.sum() < HORIZON
    monkeypatch.setitem(sys.modules, "holidays", None)
    bundle = load_bundle(write_bundle(tmp_path / "bundle", panel.columns))
    served = RequestEncoder(bundle.manifest, bundle.forecaster, ContextStore(None), 10_000)
    known = frame["y"][: 7 * 24 - 2].tolist()
    request = SeriesRequest(unique_id="a", start="2024-06-27T00:00:00", y=known)
    inputs = served.build_inputs([served.encode(request, "series.0", HORIZON)])
    assert torch.equal(inputs.past_covariates, window.past_covariates)
    assert torch.equal(inputs.future_covariates, window.future_covariates)
    with torch.no_grad():
        expected = bundle.forecaster(inputs).numpy()
    found = forecast_panel(bundle, build_request_panel(bundle.manifest, frame[: 7 * 24 - 2])).quantiles
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_years_that_were_not_kept_are_an_error_not_a_silent_zero(tmp_path):
    """Thirty-one years after the data the model knows no holidays: both roads say so."""
    panel = panel_of(frame_of())
    bundle = load_bundle(write_bundle(tmp_path / "bundle", panel.columns))
    served = RequestEncoder(bundle.manifest, bundle.forecaster, ContextStore(None), 10_000)
    with pytest.raises(SeriesError) as refused:
        served.encode(SeriesRequest(unique_id="a", start="2060-01-01T00:00:00", y=[1.0] * CONTEXT), "series.0", HORIZON)
    assert refused.value.code == "timestamps_invalid"
    with pytest.raises(DataError, match="the years whose holidays of US the model knows"):
        build_request_panel(bundle.manifest, frame_of("2060-01-01", 30))


def test_the_flag_is_made_louder_as_rare_flags_are():
    """About 11 days of 365: the network divides the flag by its deviation of 0.17, not by 1."""
    panel = panel_of(frame_of())
    scale = covariate_statistics(panel, build_splits(panel, HORIZON, 24, 0)).past_scale
    assert scale.tolist() == [pytest.approx(np.sqrt(11.8 / 365 * (1 - 11.8 / 365)), abs=0.02)]


@pytest.mark.parametrize(
    ("places", "freq", "words"),
    [
        (("XX",), "h", "names 'XX', which is not known"),
        (("US-ZZ",), "h", "names 'US-ZZ'"),
        (("US",), "W-SUN", "steps of a day or less"),
    ],
)
def test_what_cannot_be_computed_is_a_sentence(places, freq, words):
    """Unknown countries and regions, and steps longer than a day."""
    with pytest.raises(DataError, match=words):
        panel_of(frame_of("2024-06-23", 40, freq), places, freq)


def test_the_missing_library_is_a_sentence(monkeypatch):
    """It says what to install."""
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'gradcast\[holidays\]'"):
        panel_of(frame_of())


def test_one_place_needs_no_list_and_norway_is_no_falsehood():
    """`data.holidays: US` is a list of one; YAML's `NO` is Norway."""
    assert build_config({"data": {"holidays": "US"}}).data.holidays == ("US",)
    assert build_config({"data": {"holidays": [False, "SE"]}}).data.holidays == ("NO", "SE")
    with pytest.raises(ConfigurationError, match="names a place twice"):
        build_config({"data": {"holidays": ["US", "US"]}})
