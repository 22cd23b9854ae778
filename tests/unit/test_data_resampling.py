"""Irregular rows are refused, or averaged into the steps they lie in; nothing moves to an earlier step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.bundle import BundleManifest
from models.columns import Columns
from models.config import LinearConfig
from training.config import DataConfig
from training.data.panel import build_panel
from training.data.resampling import resample_frame, step_begins
from training.data.steps import parse_frequency
from training.errors import DataError
from training.forecasting import build_request_panel


def irregular():
    """Readings of a sensor: two within the first quarter, none in the third, out of order, with a text."""
    ds = ["2024-01-01 00:14:59", "2024-01-01 00:00:00", "2024-01-01 00:15:00", "2024-01-01 00:47:10"]
    return pd.DataFrame({"unique_id": "a", "ds": ds, "y": [3.0, 1.0, 5.0, 7.0], "mode": ["b", "a", "a", "c"]})


def test_each_step_is_the_mean_of_what_lies_in_it():
    """00:00:00 and 00:14:59 make 2.0 at 00:00; 00:15:00 opens the next step; the step without a row is missing."""
    frame = resample_frame(irregular(), "15min").set_index("ds").sort_index()
    assert frame["y"].tolist() == [2.0, 5.0, 7.0]
    assert [str(time.time()) for time in frame.index] == ["00:00:00", "00:15:00", "00:45:00"]
    assert frame["mode"].tolist() == ["b", "a", "c"]
    panel = build_panel(irregular(), DataConfig(freq="15min", irregular="resample", calendar="none"))
    assert panel.values.tolist() == [2.0, 5.0, 0.0, 7.0]
    assert panel.observed.tolist() == [True, True, False, True]
    assert any("4 rows averaged into 3 steps of 15min" in note for note in panel.notes)


def test_without_the_request_irregular_rows_are_refused_and_told_about_it():
    """Of forty rows two are seven minutes late: the default changes nothing and names the way out."""
    ds = pd.Series(pd.date_range("2024-01-01", periods=40, freq="15min"))
    ds[[10, 20]] += pd.Timedelta("7min")
    frame = pd.DataFrame({"unique_id": "a", "ds": ds, "y": np.arange(40.0)})
    with pytest.raises(DataError, match=r"data\.irregular=resample"):
        build_panel(frame, DataConfig(freq="15min", calendar="none"))


def test_regular_rows_stay_what_they_are():
    """A series on the grid is averaged with itself: equal to the last bit."""
    y = np.random.default_rng(0).normal(size=50)
    frame = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2024-03-01", periods=50, freq="h"), "y": y})
    plain, resampled = (build_panel(frame, DataConfig(freq="h", irregular=how)) for how in ("error", "resample"))
    np.testing.assert_array_equal(plain.values, resampled.values)
    assert plain.fingerprint == resampled.fingerprint


def test_the_hour_that_comes_twice_in_autumn_stays_two_steps():
    """Times with an offset are averaged on the clock of UTC, not of the wall."""
    ds = pd.date_range("2024-10-27 00:10", periods=4, freq="h", tz="UTC").tz_convert("Europe/Berlin")
    frame = resample_frame(pd.DataFrame({"unique_id": "a", "ds": ds, "y": np.arange(4.0)}), "h")
    assert frame["y"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert frame["ds"].dt.tz_convert("UTC").dt.hour.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("freq", "time", "begin"),
    [
        ("W-MON", "2024-07-07 23:59", "2024-07-01"),  # a Sunday belongs to the week of the Monday before
        ("D", "2024-07-04 13:30", "2024-07-04"),
        ("MS", "2024-02-29 12:00", "2024-02-01"),
        ("QS", "2024-05-31 00:00", "2024-04-01"),
        ("6h", "2024-07-04 11:59", "2024-07-04 06:00"),
    ],
)
def test_a_step_is_named_by_its_beginning(freq, time, begin):
    """Weeks by their weekday, months and quarters by their first day, hours by the clock."""
    clock = np.array([time], "M8[us]").astype(np.int64)
    assert step_begins(clock, parse_frequency(freq)).view("M8[us]")[0] == np.datetime64(begin)


@pytest.mark.parametrize(("freq", "words"), [(None, "must name the step"), ("B", "a step with a beginning")])
def test_a_step_that_cannot_be_is_a_sentence(freq, words):
    """Without a step there is nothing to average over; a business day has no beginning at the weekend."""
    with pytest.raises(DataError, match=words):
        resample_frame(irregular(), freq)


def test_a_bundle_forecasts_from_irregular_rows_as_it_was_trained():
    """What the manifest says is done with the rows of a request."""
    network = LinearConfig(context_length=4, horizon=2)
    manifest = BundleManifest(network=network, columns=Columns(), freq="15min", irregular="resample")
    assert build_request_panel(manifest, irregular()).values.tolist() == [2.0, 5.0, 0.0, 7.0]
