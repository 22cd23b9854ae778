"""How many steps make a season: by the frequency, and where it leaves a choice, by the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.steps import DAY, HOUR, WEEK, Frequency, parse_frequency

# A longer season must beat a shorter one by this factor of its error, or the shorter one is kept.
_MARGIN = 0.98
# Cycles that the training rows must hold before a season may be chosen from them.
_MIN_CYCLES = 3
_MAX_SERIES = 64
_MAX_CYCLES = 30
# Autocorrelation that a season of integer time must reach.
_MIN_AUTOCORRELATION = 0.3
_MAX_INTEGER_SEASON = 400
# A second season longer than this (a week of five minutes is 2016 steps) is left to the calendar features: a context
# that holds it would cost more than it brings.
_LONGEST = 672


def season_candidates(freq: str | Frequency) -> tuple[int, ...]:
    """Seasons that a frequency may have, in steps, shortest first; empty for integer time, which has no calendar."""
    frequency = parse_frequency(freq) if isinstance(freq, str) else freq
    if frequency.kind == "integer":
        return ()
    if frequency.kind == "business":
        return (max(1, 5 // frequency.step),)
    if frequency.kind in ("month_start", "month_end"):
        return (max(1, 12 // frequency.step) if 12 % frequency.step == 0 else 1,)
    return _fixed_candidates(frequency.step)


def _fixed_candidates(step: int) -> tuple[int, ...]:
    if step < HOUR:
        found = [DAY // step, WEEK // step] if step >= HOUR // 60 else [HOUR // step, DAY // step]
    elif step < DAY:
        found = [DAY // step, WEEK // step]
    elif step < WEEK:
        found = [WEEK // step] if WEEK % step == 0 else []
    else:
        found = [round(365.2425 * DAY / step)] if step < 180 * DAY else []
    shortest, *longer = [season for season in found if season > 1] or [1]
    return (shortest, *(season for season in longer if season <= _LONGEST))


def default_season_length(freq: str | Frequency) -> int:
    """The shortest season of a frequency: 24 for hours, 7 for days, 52 for weeks, 12 for months, 1 for integer time."""
    return next(iter(season_candidates(freq)), 1)


def estimate_season_length(
    freq: str | Frequency,
    values: NDArray[np.float32],
    observed: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    train_end: NDArray[np.int64],
) -> int:
    """Choose among the seasons of a frequency the one whose seasonal naive forecast errs least on training rows.

    Args:
        freq: Step between rows.
        values: The store of `y`.
        observed: True where a value is real.
        offsets: First row of each series, and the end.
        train_end: Training rows of each series.

    Returns:
        Steps per season; for integer time the lag with the highest autocorrelation, or 1.
    """
    candidates = season_candidates(freq)
    if len(candidates) == 1:
        return candidates[0]
    sample = _sample(offsets, train_end)
    parts = [(values[a:b], observed[a:b]) for a, b in sample]
    if not candidates:
        return _integer_season(parts)
    best = candidates[0]
    for season in candidates[1:]:
        pairs = [
            (_naive_error(y, seen, season, _MAX_CYCLES * season), _naive_error(y, seen, best, _MAX_CYCLES * season))
            for y, seen in parts
            if len(y) >= _MIN_CYCLES * season
        ]
        ratios = [long / short for long, short in pairs if short > 0 and np.isfinite(long)]
        if ratios and float(np.median(ratios)) < _MARGIN:
            best = season
    return best


def _sample(offsets: NDArray[np.int64], train_end: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Training rows of at most a few dozen series, evenly chosen."""
    chosen = np.unique(np.linspace(0, len(train_end) - 1, min(len(train_end), _MAX_SERIES)).astype(np.int64))
    return [(int(offsets[i]), int(offsets[i] + train_end[i])) for i in chosen]


def _naive_error(y: NDArray[np.float32], observed: NDArray[np.bool_], season: int, newest: int) -> float:
    """Mean absolute error of repeating the season before, on the newest rows that are observed twice."""
    start = max(season, len(y) - newest)
    if start >= len(y):
        return float("nan")
    both = observed[start:] & observed[start - season : len(y) - season]
    if not both.any():
        return float("nan")
    return float(np.abs(y[start:] - y[start - season : len(y) - season])[both].mean(dtype=np.float64))


def _integer_season(parts: list[tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> int:
    found = [season for y, observed in parts if (season := _autocorrelation_season(y, observed)) > 1]
    if len(found) * 2 < len(parts) or not found:
        return 1
    seasons, counts = np.unique(found, return_counts=True)
    return int(seasons[np.argmax(counts)])


def _autocorrelation_season(y: NDArray[np.float32], observed: NDArray[np.bool_]) -> int:
    """Lag of the first high peak of the autocorrelation of the differences."""
    y, observed = y[-20 * _MAX_INTEGER_SEASON :], observed[-20 * _MAX_INTEGER_SEASON :]
    if len(y) < 12 or observed.mean() < 0.5:
        return 1
    steps = np.diff(y.astype(np.float64)) * (observed[1:] & observed[:-1])
    steps -= steps.mean()
    power = float(steps @ steps)
    longest = min(_MAX_INTEGER_SEASON, len(y) // _MIN_CYCLES)
    if power <= 0 or longest < 3:
        return 1
    spectrum = np.abs(np.fft.rfft(steps, 2 * len(steps))) ** 2
    lags = np.arange(longest + 2)
    # Dividing by the share of pairs keeps long lags from looking weaker than they are.
    correlation = np.fft.irfft(spectrum)[: longest + 2] / power * len(steps) / (len(steps) - lags).clip(min=1)
    peaks = [
        lag for lag in range(2, longest + 1) if correlation[lag] >= max(correlation[lag - 1], correlation[lag + 1])
    ]
    high = [lag for lag in peaks if correlation[lag] >= _MIN_AUTOCORRELATION]
    if not high:
        return 1
    strongest = max(correlation[lag] for lag in high)
    return next(lag for lag in high if correlation[lag] >= 0.9 * strongest)
