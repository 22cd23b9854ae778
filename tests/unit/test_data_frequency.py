"""Finding the step between rows, and the season."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pandas.tseries.frequencies import to_offset

from training.config import DataConfig
from training.data.frequency import default_season_length, infer_frequency, season_candidates
from training.data.panel import Panel, build_panel
from training.data.rows import SortedRows, sort_rows
from training.errors import DataError


def rows_of(**series: pd.DatetimeIndex | list[int]) -> SortedRows:
    parts = [pd.DataFrame({"unique_id": name, "ds": times}) for name, times in series.items()]
    return sort_rows(pd.concat(parts, ignore_index=True))


def dates(alias: str, periods: int, start: str = "2001-01-01") -> pd.DatetimeIndex:
    return pd.date_range(start, periods=periods, freq=to_offset(alias))


@pytest.mark.parametrize(
    "alias",
    [
        "5min",
        "30min",
        "h",
        "2h",
        "D",
        "W-SUN",
        "W-WED",
        "MS",
        "ME",
        "QS",
        "QS-FEB",
        "QE",
        "YS",
        "YS-JUL",
        "YE",
        "2D",
        "4h",
        "B",
    ],
)
@pytest.mark.parametrize("has_gaps", [False, True])
def test_step_is_found_with_and_without_gaps(alias: str, has_gaps: bool) -> None:
    """The alias of every common grid is found, also when a fifth of the rows is absent."""
    times = dates(alias, 60)
    if has_gaps:
        times = times.delete([3, 7, 8, 20, 21, 22, 30, 41, 42, 50, 51, 57])
    finding = infer_frequency(rows_of(a=times, b=times[5:]))
    assert finding.problems == ()
    assert finding.frequency is not None
    assert to_offset(finding.frequency.alias) == to_offset(alias)


def test_series_between_each_others_steps_share_a_frequency() -> None:
    """Hours at :00 and hours at :30 are both hourly."""
    finding = infer_frequency(rows_of(a=dates("h", 30), b=dates("h", 30, "2001-01-01 00:30")))
    assert finding.problems == ()
    assert finding.frequency is not None
    assert finding.frequency.alias == "h"


def test_weeks_of_different_weekdays_have_no_weekday() -> None:
    """Weekly series of Mondays and of Fridays are steps of seven days."""
    finding = infer_frequency(rows_of(a=dates("W-MON", 30), b=dates("W-FRI", 30)))
    assert finding.frequency is not None
    assert finding.frequency.alias == "7D"


def test_mixed_frequencies_are_refused_by_name() -> None:
    """Series of another step are named with their step, whether finer, coarser or of months."""
    finding = infer_frequency(rows_of(a=dates("h", 400), b=dates("D", 40), c=dates("MS", 40), d=dates("h", 300)))
    (problem,) = finding.problems
    assert problem.code == "mixed_frequencies"
    assert "D: 1 series ('b')" in problem.message
    assert "MS: 1 series ('c')" in problem.message
    assert "h: 2 series" in problem.message
    assert problem.remedy


def test_sparse_series_is_not_another_frequency() -> None:
    """A daily series with rows on few days is sparse, not of a coarser step."""
    sparse = dates("D", 200)[[0, 1, 9, 30, 31, 77, 100, 140, 150, 199]]
    assert infer_frequency(rows_of(a=dates("D", 200), b=sparse)).problems == ()


def test_irregular_rows_are_refused_with_series_row_and_remedy() -> None:
    """A single row off the grid is named with its series and time, and resampling is offered."""
    times = dates("30min", 50).to_list()
    times[20] += pd.Timedelta(seconds=42)
    finding = infer_frequency(rows_of(good=dates("30min", 50), lot=times))
    (problem,) = finding.problems
    assert problem.code == "irregular_timestamps"
    assert "'lot'" in problem.where
    assert "2001-01-01 10:00:42" in problem.message
    assert "resample('30min')" in problem.remedy


def test_wanted_frequency_is_checked_on_every_row() -> None:
    """An override is taken where the rows lie on its grid and refused with the right alias where they do not."""
    mondays = dates("W-MON", 20)
    assert infer_frequency(rows_of(a=mondays), "W-MON").problems == ()
    assert infer_frequency(rows_of(a=mondays), "D").problems == ()
    (problem,) = infer_frequency(rows_of(a=mondays), "W").problems
    assert problem.code == "freq_mismatch"
    assert "W-MON" in problem.remedy


def test_wanted_integer_step_does_not_fit_dates() -> None:
    """A number is no frequency of dates, nor an alias one of integers."""
    assert infer_frequency(rows_of(a=dates("h", 5)), "1").problems[0].code == "freq_mismatch"
    assert infer_frequency(rows_of(a=[1, 2, 3]), "h").problems[0].code == "freq_mismatch"


def test_integer_time_has_its_modal_step() -> None:
    """Integer time that counts in tens, with gaps, has the step 10."""
    finding = infer_frequency(rows_of(a=[0, 10, 20, 50, 60, 70], b=[5, 15, 25]))
    assert finding.problems == ()
    assert finding.frequency is not None
    assert finding.frequency.alias == "10"


def test_single_rows_have_no_frequency() -> None:
    """Without two timestamps there is no step, and the user is told to name it."""
    (problem,) = infer_frequency(rows_of(a=[1], b=[2])).problems
    assert "data.freq" in problem.remedy
    assert infer_frequency(rows_of(a=[1], b=[2]), "1").problems == ()


@pytest.mark.parametrize(
    ("freq", "season"),
    [
        ("h", 24),
        ("30min", 48),
        ("15min", 96),
        ("5min", 288),
        ("min", 1440),
        ("D", 7),
        ("B", 5),
        ("W-MON", 52),
        ("7D", 52),
        ("14D", 26),
        ("MS", 12),
        ("ME", 12),
        ("QS", 4),
        ("YS", 1),
        ("1", 1),
        ("2MS", 6),
        ("2h", 12),
    ],
)
def test_default_seasons(freq: str, season: int) -> None:
    """Each frequency has the season that forecasters use for it."""
    assert default_season_length(freq) == season


def test_candidates_of_hours_and_half_hours() -> None:
    """Hours may have a day or a week, half hours too; a week of five minutes is too long to carry."""
    assert season_candidates("h") == (24, 168)
    assert season_candidates("30min") == (48, 336)
    assert season_candidates("5min") == (288,)


def panel_of(y: np.ndarray, ds: object, **config: object) -> Panel:
    return build_panel(pd.DataFrame({"unique_id": "a", "ds": ds, "y": y}), DataConfig(**config))


def test_week_is_chosen_where_it_forecasts_better() -> None:
    """With quiet weekends the week's seasonal naive wins over the day's; with equal days the day is kept."""
    hours = dates("h", 24 * 7 * 6)
    random = np.random.default_rng(0)
    daily = 10 + 5 * np.sin(2 * np.pi * np.arange(len(hours)) / 24) + random.normal(0, 0.3, len(hours))
    assert panel_of(daily, hours).season_length == 24
    assert panel_of(np.where(hours.day_of_week < 5, daily, 1.0), hours).season_length == 168


def test_week_needs_three_weeks_of_training_rows() -> None:
    """Two weeks cannot tell a weekly season."""
    hours = dates("h", 24 * 15)
    y = np.where(hours.day_of_week < 5, 10.0, 1.0)
    assert panel_of(y, hours).season_length == 24


def test_integer_season_is_found_by_autocorrelation() -> None:
    """A period of 13 in integer time is found; noise has season 1."""
    random = np.random.default_rng(0)
    wave = np.tile(random.normal(size=13), 20) + random.normal(0, 0.1, 260)
    assert panel_of(wave, np.arange(260)).season_length == 13
    assert panel_of(random.normal(size=260), np.arange(260)).season_length == 1


def test_season_override_wins() -> None:
    """data.season_length is taken as it is."""
    assert panel_of(np.arange(20.0), dates("D", 20), season_length=3).season_length == 3


def test_frequency_problems_reach_the_user_as_data_errors() -> None:
    """build_panel refuses what infer_frequency finds wrong."""
    with pytest.raises(DataError, match="off a regular"):
        panel_of(np.arange(4.0), ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-03 05:00"])
