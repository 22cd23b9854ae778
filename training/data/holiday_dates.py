"""Public holidays as a calendar feature: one flag per country or region, from dates that are kept with the model.

The dates come from the library `holidays` once, in training, for many years on either side. Serving reads them from the bundle:
it needs no library, and another version of it, with another law, cannot change what a model is shown.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from training.data.steps import DAY, Frequency
from training.errors import DataError, Problem
from training.extras import require_extra

PREFIX = "holiday_"
# Years of dates kept before the first and after the last row that a model was trained on.
YEARS_BEFORE, YEARS_AFTER = 20, 30
# A flag is divided by its deviation, but never by less than this: as other rare flags.
_RAREST_SCALE = 0.1

Dates = Mapping[str, Mapping[str, str]]


def holiday_features(places: Iterable[str]) -> tuple[str, ...]:
    """Names of the features, one per place."""
    return tuple(f"{PREFIX}{place}" for place in places)


def read_holidays(
    places: tuple[str, ...], frequency: Frequency, first: int, last: int
) -> dict[str, dict[str, str]]:
    """Dates and names of the public holidays of each place.

    Args:
        places: Country codes such as `US`, with a subdivision as in `US-CA`.
        frequency: Step between rows; a day at most.
        first: First timestamp of the data.
        last: Last timestamp of the data.

    Returns:
        Name by ISO date, by place.

    Raises:
        ConfigurationError: If the library is not installed.
        DataError: If a place is unknown, or the step is longer than a day.
    """
    if not places:
        return {}
    require_extra("holidays", "holidays", "data.holidays")
    is_short = frequency.kind == "business" or (frequency.kind == "fixed" and frequency.step <= DAY)
    if not is_short:
        message = f"needs steps of a day or less, but freq is {frequency.alias} instead."
        raise DataError([Problem("holidays_impossible", "data.holidays", message, "Set data.holidays: [].")])
    years = range(_year(first) - YEARS_BEFORE, _year(last) + YEARS_AFTER + 1)
    return {place: _read_place(place, years) for place in places}


def _read_place(place: str, years: range) -> dict[str, str]:
    import holidays

    country, _, subdivision = place.partition("-")
    known = holidays.list_supported_countries()
    if country not in known or (subdivision and subdivision not in known[country]):
        message = f"names {place!r}, which is not known."
        remedy = "Use a country code such as US, with a subdivision as in US-CA."
        raise DataError([Problem("holidays_place_unknown", "data.holidays", message, remedy)])
    found = holidays.country_holidays(country, subdiv=subdivision or None, years=years)
    return {day.isoformat(): name for day, name in sorted(found.items())}


def holiday_flags(place: str, clock: NDArray[np.int64], dates: Dates) -> NDArray[np.float32]:
    """1 where a timestamp lies on a holiday of the place, else 0.

    Args:
        place: Whose holidays.
        clock: Local time, microseconds since 1970.
        dates: As kept with the model.

    Raises:
        DataError: If a timestamp lies in a year of which no dates are kept.
    """
    days = clock // DAY
    problem = validate_years(clock, dates)
    if problem is not None:
        raise DataError([problem])
    known = np.array([np.datetime64(day, "D").astype(np.int64) for day in dates[place]], np.int64)
    return np.isin(days, known).astype(np.float32)


def validate_years(clock: NDArray[np.int64], dates: Dates) -> Problem | None:
    """What is wrong with timestamps beyond the years whose holidays are kept; None if nothing is."""
    for place, names in dates.items():
        first, last = int(min(names)[:4]), int(max(names)[:4])
        if len(clock) and not first <= _year(int(clock.min())) <= _year(int(clock.max())) <= last:
            message = f"has times outside of {first} to {last}, the years whose holidays of {place} the model knows."
            return Problem("holidays_years_unknown", "column 'ds'", message, "Train again on newer data.")
    return None


def holiday_scale(place: str, dates: Dates) -> float:
    """Deviation of the flag of a place, by which the network divides it."""
    names = dates[place]
    days = (dt.date.fromisoformat(max(names)) - dt.date.fromisoformat(min(names))).days + 1
    share = len(names) / days
    return float(max(np.sqrt(share * (1.0 - share)), _RAREST_SCALE))


def _year(stamp: int) -> int:
    return int(np.array([stamp]).view("M8[us]").astype("M8[Y]").astype(np.int64)[0]) + 1970
