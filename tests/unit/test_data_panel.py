"""Rows become a regular grid, and whatever cannot is named."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.columns import Columns
from training.config import DataConfig
from training.data.panel import Panel, build_panel
from training.errors import DataError


def days(periods: int, start: str = "2020-01-01") -> pd.DatetimeIndex:
    return pd.date_range(start, periods=periods, freq="D")


def frame_of(**series: Any) -> pd.DataFrame:
    parts = [pd.DataFrame({"unique_id": name, **columns}) for name, columns in series.items()]
    return pd.concat(parts, ignore_index=True)


def panel_of(frame: pd.DataFrame, columns: Columns | None = None, horizon: int = 0, **config: Any) -> Panel:
    return build_panel(frame, DataConfig(**config), columns, horizon)


def codes(caught: pytest.ExceptionInfo[DataError]) -> list[str]:
    return [problem.code for problem in caught.value.problems]


def test_series_lie_together_in_order_of_appearance() -> None:
    """Series keep the order of the file; offsets, starts and values say where each is."""
    panel = panel_of(frame_of(b={"ds": days(3), "y": [1, 2, 3]}, a={"ds": days(2, "2020-02-01"), "y": [4.5, 5]}))
    assert panel.ids == ("b", "a")
    assert panel.offsets.tolist() == [0, 3, 5]
    assert panel.values.tolist() == [1, 2, 3, 4.5, 5]
    assert panel.values.dtype == np.float32
    assert panel.observed.all()
    assert panel.starts.astype(str).tolist() == ["2020-01-01T00:00:00.000000", "2020-02-01T00:00:00.000000"]
    assert panel.freq == "D"


def test_absent_rows_and_missing_values_are_the_same() -> None:
    """A gap and an empty field are both an unobserved 0 on the grid."""
    gap = frame_of(a={"ds": days(5).delete([1, 2]), "y": [1.0, 4.0, 5.0]})
    empty = frame_of(a={"ds": days(5), "y": [1.0, np.nan, np.nan, 4.0, 5.0]})
    for panel in (panel_of(gap), panel_of(empty)):
        assert panel.values.tolist() == [1, 0, 0, 4, 5]
        assert panel.observed.tolist() == [True, False, False, True, True]
        assert any("2 of 5 steps have no value" in note for note in panel.notes)


def test_rows_may_come_in_any_order() -> None:
    """A shuffled file gives the same panel as a sorted one, up to the order of series, and says that it sorted."""
    frame = frame_of(
        a={"ds": days(20), "y": np.arange(20.0), "x": np.arange(20.0)},
        b={"ds": days(15), "y": -np.arange(15.0), "x": 1.0},
    )
    shuffled = frame.sample(frac=1, random_state=3).reset_index(drop=True)
    sorted_panel, panel = panel_of(frame, hist_exog=("x",)), panel_of(shuffled, hist_exog=("x",))
    for name in ("a", "b"):
        i, j = sorted_panel.ids.index(name), panel.ids.index(name)
        for store in ("values", "covariates", "observed"):
            np.testing.assert_array_equal(
                getattr(panel, store)[panel.offsets[j] : panel.offsets[j + 1]],
                getattr(sorted_panel, store)[sorted_panel.offsets[i] : sorted_panel.offsets[i + 1]],
            )
    assert any("sorted" in note for note in panel.notes)
    backwards = frame.iloc[::-1].reset_index(drop=True)
    assert any("not in order of time" in note for note in panel_of(backwards, hist_exog=("x",)).notes)


def test_repeated_timestamps_are_refused_with_series_and_rows() -> None:
    """Two rows of one time are never merged; exact copies and conflicts are told apart."""
    frame = frame_of(
        a={"ds": days(3), "y": [1.0, 2.0, 3.0]}, b={"ds": [*days(3), *days(2)], "y": [1.0, 2.0, 3.0, 1.0, 9.0]}
    )
    with pytest.raises(DataError) as caught:
        panel_of(frame)
    (problem,) = caught.value.problems
    assert problem.code == "duplicate_timestamps"
    assert problem.where == "series 'b'"
    assert "2 row(s)" in problem.message
    assert "1 of them with another value" in problem.message
    assert "row 4 and row 7" in problem.message
    assert problem.remedy


def test_rows_outside_the_observed_span_are_left_out() -> None:
    """Leading and trailing empty targets are no rows; the span starts and ends with a value, and that is said."""
    panel = panel_of(frame_of(a={"ds": days(6), "y": [np.nan, 2.0, np.nan, 4.0, np.nan, np.nan]}))
    assert panel.values.tolist() == [2, 0, 4]
    assert str(panel.timestamps(0, 0, 1)[0]) == "2020-01-02 00:00:00"
    assert any("3 rows before the first or after the last value" in note for note in panel.notes)


def test_series_without_any_value_are_dropped_aloud() -> None:
    """A series of nothing is left out with its name; a file of nothing is refused."""
    frame = frame_of(full={"ds": days(4), "y": 1.0}, void={"ds": days(4), "y": np.nan})
    panel = panel_of(frame)
    assert panel.ids == ("full",)
    assert any("'void'" in note for note in panel.notes)
    with pytest.raises(DataError) as caught:
        panel_of(frame[frame["unique_id"] == "void"])
    assert codes(caught) == ["target_all_missing"]


def test_constant_series_are_kept_aloud() -> None:
    """A series that never changes is kept, with a note."""
    panel = panel_of(frame_of(flat={"ds": days(4), "y": 7.0}))
    assert panel.ids == ("flat",)
    assert any("constant" in note and "'flat'" in note for note in panel.notes)


@pytest.mark.parametrize(
    ("y", "code"),
    [
        ([1.0, np.inf, 2.0], "target_infinite"),
        ([1.0, -np.inf, 2.0], "target_infinite"),
        ([1.0, 1e300, 2.0], "target_infinite"),
        ([1.0, "ND", 2.0], "target_not_numeric"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(y: list[object], code: str) -> None:
    """Infinity, numbers beyond float32 and text are errors with series and row."""
    with pytest.raises(DataError) as caught:
        panel_of(frame_of(a={"ds": days(3), "y": y}))
    assert codes(caught) == [code]
    assert caught.value.problems[0].where == "series 'a', row 2"


def test_missing_names_and_times_are_refused_together() -> None:
    """Both kinds of unusable rows are reported at once."""
    frame = pd.DataFrame({"unique_id": ["a", None, "a"], "ds": ["2020-01-01", "2020-01-02", "?"], "y": [1.0, 2.0, 3.0]})
    with pytest.raises(DataError) as caught:
        panel_of(frame)
    assert codes(caught) == ["id_missing", "time_unreadable"]


def test_missing_columns_are_refused_together() -> None:
    """Absent required columns and absent covariates are one error."""
    with pytest.raises(DataError) as caught:
        panel_of(pd.DataFrame({"unique_id": ["a"], "y": [1.0]}), futr_exog=("x",))
    assert codes(caught) == ["column_missing", "covariate_missing"]


def test_stray_timestamp_does_not_fill_the_memory() -> None:
    """One row a thousand years off is refused, instead of a grid of ten million minutes."""
    times = [*pd.date_range("2020-01-01", periods=50, freq="min"), pd.Timestamp("3020-01-01")]
    with pytest.raises(DataError) as caught:
        panel_of(frame_of(a={"ds": times, "y": 1.0}))
    assert codes(caught) == ["grid_too_sparse"]
    assert "3020-01-01" in caught.value.problems[0].message


def test_integer_time() -> None:
    """Integer timestamps stay integers, without calendar."""
    panel = panel_of(frame_of(a={"ds": [5, 6, 8], "y": [1.0, 2.0, 3.0]}))
    assert panel.time_kind == "integer"
    assert panel.values.tolist() == [1, 2, 0, 3]
    assert panel.timestamps(0, 2, 6).tolist() == [7, 8, 9, 10]
    assert panel.columns.calendar == ()
    with pytest.raises(DataError, match="no calendar"):
        panel_of(frame_of(a={"ds": [5, 6], "y": 1.0}), calendar=("hour_of_day",))


def test_daylight_saving_time_is_regular_in_utc() -> None:
    """Hours with offsets across both changes have no gap and no repetition; shown times carry the offset."""
    times = pd.date_range("2023-03-20", "2023-11-10", freq="h", tz="Europe/Berlin")
    panel = panel_of(frame_of(a={"ds": [time.isoformat() for time in times], "y": np.arange(len(times), dtype=float)}))
    assert panel.observed.all()
    assert len(panel.values) == len(times)
    shown = panel.timestamps(0, 0, len(times))
    assert (shown == times).all()
    assert panel.timezone is not None


def test_days_with_offsets_are_regular_on_the_local_clock() -> None:
    """Midnights across a change are 23 and 25 hours apart, and still one day."""
    times = pd.date_range("2023-03-20", periods=20, freq="D", tz="Europe/Berlin")
    panel = panel_of(frame_of(a={"ds": times, "y": np.arange(20.0)}))
    assert panel.freq == "D"
    assert panel.observed.all()
    assert str(panel.timestamps(0, 19, 20)[0]) == "2023-04-08 00:00:00"


def test_a_model_of_zoned_times_takes_requests_of_other_zones() -> None:
    """Serving brings times with offsets to the model's zone, and refuses times without."""
    columns = Columns(calendar=("hour_of_day_sin", "hour_of_day_cos"))
    utc = pd.date_range("2023-06-01", periods=5, freq="h", tz="UTC")
    config = DataConfig(freq="h")
    zoned = build_panel(frame_of(a={"ds": utc, "y": 1.0}), config, columns, 2, timezone="Europe/Berlin")
    local = build_panel(
        frame_of(a={"ds": utc.tz_convert("Europe/Berlin"), "y": 1.0}), config, columns, 2, timezone="Europe/Berlin"
    )
    np.testing.assert_array_equal(zoned.calendar, local.calendar)
    assert zoned.calendar[0].tolist() == pytest.approx([0.5, np.sqrt(0.75)], abs=1e-6)  # two o'clock in Berlin
    with pytest.raises(DataError, match="UTC offset"):
        build_panel(frame_of(a={"ds": utc.tz_localize(None), "y": 1.0}), config, columns, 2, timezone="Europe/Berlin")
    naive = build_panel(
        frame_of(a={"ds": utc.tz_convert("Europe/Berlin"), "y": 1.0}), config, columns, 2, timezone=None
    )
    assert str(naive.timestamps(0, 0, 1)[0]) == "2023-06-01 02:00:00"


def gapped() -> pd.DataFrame:
    return frame_of(
        a={"ds": days(6), "y": [1.0, np.nan, np.nan, 4.0, np.nan, 8.0]}, b={"ds": days(3), "y": [1.0, np.nan, 2.0]}
    )


@pytest.mark.parametrize(
    ("fill", "values"),
    [
        ("mask", [1, 0, 0, 4, 0, 8, 1, 0, 2]),
        ("ffill", [1, 1, 1, 4, 4, 8, 1, 1, 2]),
        ("linear", [1, 2, 3, 4, 6, 8, 1, 1.5, 2]),
        ("zero", [1, 0, 0, 4, 0, 8, 1, 0, 2]),
    ],
)
def test_fill_policies(fill: str, values: list[float]) -> None:
    """Each policy fills within the series; guesses are marked as such, zeros count as observed."""
    panel = panel_of(gapped(), fill=fill)
    missing = [1, 2, 4, 7]
    assert panel.values.tolist() == values
    assert panel.observed[missing].tolist() == [fill == "zero"] * 4
    if fill in ("ffill", "linear"):
        assert panel.filled is not None
        assert np.flatnonzero(panel.filled).tolist() == missing
    else:
        assert panel.filled is None


def test_fill_error_names_every_series() -> None:
    """`fill: error` refuses the file with series, count and first time."""
    with pytest.raises(DataError) as caught:
        panel_of(gapped(), fill="error")
    assert [problem.where for problem in caught.value.problems] == ["series 'a'", "series 'b'"]
    assert "3 of 6 steps have no value, first 2020-01-02" in caught.value.problems[0].message


def test_fingerprint_follows_the_content() -> None:
    """Equal content has an equal fingerprint, and any change of a value, a name or a time changes it."""
    frame = frame_of(a={"ds": days(5), "y": np.arange(5.0)})
    base = panel_of(frame).fingerprint
    assert panel_of(frame.copy()).fingerprint == base
    others = [frame.assign(y=frame["y"] + 1), frame.assign(unique_id="b"), frame.assign(ds=days(5, "2020-01-02"))]
    assert len({base, *(panel_of(other).fingerprint for other in others)}) == 4


def test_timestamps_go_on_beyond_the_end() -> None:
    """The future of a series is part of its clock."""
    panel = panel_of(frame_of(a={"ds": pd.date_range("2020-01-31", periods=3, freq="ME"), "y": 1.0}))
    assert [str(time)[:10] for time in panel.timestamps(0, 2, 5)] == ["2020-03-31", "2020-04-30", "2020-05-31"]


def test_large_stores_live_in_files_that_go_away() -> None:
    """Over the threshold the store is a memory map with equal content, removed with the panel."""
    frame = frame_of(a={"ds": days(50), "y": np.arange(50.0), "x": np.arange(50.0)})
    config = DataConfig(hist_exog=("x",))
    small, large = build_panel(frame, config), build_panel(frame, config, memmap_threshold_bytes=100)
    assert isinstance(large.values, np.memmap)
    assert isinstance(large.covariates, np.memmap)
    assert small.fingerprint == large.fingerprint
    assert large.storage is not None
    directory = large.storage.directory
    assert directory.exists()
    del large
    gc.collect()
    assert not directory.exists()
