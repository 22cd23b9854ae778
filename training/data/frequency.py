"""The step between rows: found in the data or taken from the user, and checked on every row either way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.rows import SortedRows, block_edges
from training.data.seasons import default_season_length, estimate_season_length, season_candidates
from training.data.steps import DAY, HOUR, MINUTE, SECOND, Frequency, FrequencyKind, build_frequency, parse_frequency
from training.data.timestamps import wall_clock
from training.errors import MAX_SHOWN, DataError, Problem

__all__ = [
    "Frequency", "FrequencyFinding", "default_season_length", "estimate_season_length", "future_timestamps",
    "grid_clock", "infer_frequency", "parse_frequency", "season_candidates",
]  # fmt: skip

# From this step on, calendar months are tried before fixed lengths: the shortest month has 28 days.
_MONTH_LIKE = 28 * DAY
# A series with fewer rows than this cannot prove that its step is coarser than that of the others.
_FEW_ROWS = 8
# Rows that show what most steps are.
SAMPLE_ROWS = 1 << 20


@dataclass(frozen=True)
class FrequencyFinding:
    """What the timestamps say about their step.

    Attributes:
        frequency: The step of most rows; None if there is none.
        problems: Why the rows do not lie on one regular grid; empty if they do.
        is_dense: True if every row is one step after the row before it.
    """

    frequency: Frequency | None
    problems: tuple[Problem, ...] = ()
    is_dense: bool = False


def grid_clock(rows: SortedRows) -> tuple[NDArray[np.int64], bool]:
    """The clock on which the rows may be regular.

    Hours are regular in UTC, days and months on the local clock: a local day has 23 or 25 hours twice a year.

    Returns:
        Timestamps to find the step of, and whether they are local although the rows carry offsets.
    """
    if rows.timezone in (None, "UTC") or rows.time_kind == "integer":
        return rows.stamps, False
    local = wall_clock(rows.stamps[:SAMPLE_ROWS], rows.timezone)
    if not counts_days(local, rows.offsets):
        return rows.stamps, False
    return np.concatenate([local, wall_clock(rows.stamps[SAMPLE_ROWS:], rows.timezone)]), True


def counts_days(local: NDArray[np.int64], offsets: NDArray[np.int64]) -> bool:
    """Whether most steps of local times are a day or longer.

    Args:
        local: The first rows, up to `SAMPLE_ROWS`, on the local clock.
        offsets: First row of each series, and the end.
    """
    step = _modal_step(local, offsets)
    return step is not None and step >= DAY


def infer_frequency(rows: SortedRows, wanted: str | None = None) -> FrequencyFinding:
    """Find the step of all series together, or check the wanted one.

    The step of most rows counts (so a few gaps do not disturb it); rows that do not lie on its grid, and series with
    another step, are problems. Rows absent from the grid are not: they become missing values.

    Args:
        rows: Sorted rows without repeated timestamps.
        wanted: The step the user says, as a pandas alias or a whole number.
    """
    frequency = None if wanted is None else parse_frequency(wanted)
    if frequency is not None and (frequency.kind == "integer") != (rows.time_kind == "integer"):
        actual = "integers" if rows.time_kind == "integer" else "dates"
        message = f"is {frequency.alias!r}, but the time column holds {actual}."
        return FrequencyFinding(
            frequency, (Problem("freq_mismatch", "data.freq", message, "Leave data.freq null to infer it."),)
        )
    if frequency is None:
        step = _constant_step(rows.stamps, rows.offsets)
        if step is not None and (rows.time_kind == "integer" or step < _MONTH_LIKE):
            kind: FrequencyKind = "integer" if rows.time_kind == "integer" else "fixed"
            return FrequencyFinding(build_frequency(kind, step, _firsts(rows)), is_dense=True)
        frequency = _most_common(rows)
    elif frequency.kind in ("integer", "fixed") and _constant_step(rows.stamps, rows.offsets) == frequency.step:
        return FrequencyFinding(frequency, tuple(_off_anchor(rows, frequency)), is_dense=True)
    if frequency is None:
        message = "has no step: no series has two different timestamps."
        return FrequencyFinding(
            None, (Problem("freq_unknown", "data", message, "Set data.freq, or bring longer series."),)
        )
    return FrequencyFinding(frequency, tuple(_grid_problems(rows, frequency, is_wanted=wanted is not None)))


def future_timestamps(last: int, frequency: Frequency, count: int) -> NDArray[np.int64]:
    """The `count` timestamps that follow `last` on its grid."""
    return frequency.range(last, 1, count + 1)


def _firsts(rows: SortedRows) -> NDArray[np.int64]:
    return rows.stamps[rows.offsets[:-1][np.diff(rows.offsets) > 0]]


def _constant_step(stamps: NDArray[np.int64], offsets: NDArray[np.int64]) -> int | None:
    """The step, if it is the same between all neighbouring rows of all series."""
    long = np.flatnonzero(np.diff(offsets) > 1)
    if not len(long):
        return None
    first = int(offsets[long[0]])
    step = int(stamps[first + 1] - stamps[first])
    boundaries = offsets[1:-1] - 1
    for start, stop in block_edges(len(stamps) - 1):
        other = (stamps[start + 1 : stop + 1] - stamps[start:stop]) != step
        lo, hi = np.searchsorted(boundaries, [start, stop])
        other[boundaries[lo:hi] - start] = False
        if other.any():
            return None
    return step if step > 0 else None


def _modal_step(stamps: NDArray[np.int64], offsets: NDArray[np.int64]) -> int | None:
    steps = np.diff(stamps)
    inside = np.ones(len(steps), np.bool_)
    boundaries = offsets[1:-1] - 1
    inside[boundaries[boundaries < len(steps)]] = False
    steps = steps[inside & (steps > 0)]
    if not len(steps):
        return None
    values, counts = np.unique(steps, return_counts=True)
    return int(values[np.argmax(counts)])


def _most_common(rows: SortedRows) -> Frequency | None:
    stamps, offsets = rows.stamps[:SAMPLE_ROWS], rows.offsets
    step = _modal_step(stamps, offsets)
    if step is None:
        return None
    if rows.time_kind == "integer":
        return build_frequency("integer", step, _firsts(rows))
    if step >= _MONTH_LIKE:
        for kind in ("month_end", "month_start"):
            monthly = _monthly(rows, kind)
            if monthly is not None:
                return monthly
    if step == DAY and _is_business(rows):
        return build_frequency("business", 1, _firsts(rows))
    # A week is named after its weekday: that of the rows that have this step, not of stray rows or other series.
    return build_frequency("fixed", step, rows.stamps[:-1][np.diff(rows.stamps) == step])


def _monthly(rows: SortedRows, kind: FrequencyKind) -> Frequency | None:
    """Months, if most series keep one day of the month."""
    units, rest = Frequency("", kind, 1).units(rows.stamps)
    lengths = np.diff(rows.offsets)
    steady = rest == np.repeat(rest[np.minimum(rows.offsets[:-1], len(rest) - 1)], lengths)
    if kind == "month_end":
        steady &= (rest >= 0) & (rest < DAY)
    share = np.add.reduceat(steady, rows.offsets[:-1]) / lengths
    if np.average(share == 1.0, weights=lengths) < 0.5:
        return None
    step = _modal_step(units, rows.offsets)
    keeps = np.repeat(share == 1.0, lengths)
    return None if step is None else build_frequency(kind, step, rows.stamps[keeps])


def _is_business(rows: SortedRows) -> bool:
    """Daily rows that never fall on a weekend, over at least two weeks."""
    if len(rows.stamps) < 10 or (((rows.stamps // DAY + 3) % 7) >= 5).any():
        return False
    return int((np.diff(rows.stamps) == 3 * DAY).sum()) >= 2


def _off_anchor(rows: SortedRows, frequency: Frequency) -> list[Problem]:
    off = np.flatnonzero(~frequency.fits_anchor(rows.stamps))
    if not len(off):
        return []
    found = build_frequency(frequency.kind, frequency.step, rows.stamps) if frequency.kind != "business" else None
    remedy = f"The rows fit {found.alias}: set data.freq={found.alias}." if found else "Set data.freq=D."
    row = int(off[0])
    where = f"series {rows.ids[int(rows.series_of(off[:1])[0])]!r}"
    message = f"{len(off)} of all rows do not lie on freq {frequency.alias}, first {rows.time_text(row)}."
    return [Problem("freq_mismatch", where, message, remedy)]


def _grid_problems(rows: SortedRows, frequency: Frequency, is_wanted: bool) -> list[Problem]:
    if is_wanted and (problems := _off_anchor(rows, frequency)):
        return problems
    off = off_grid_rows(rows, frequency)
    series = np.unique(rows.series_of(off)) if len(off) else np.zeros(0, np.int64)
    other: dict[str, list[str]] = {}
    irregular: list[Problem] = []
    for index in series:
        lo, hi = np.searchsorted(off, rows.offsets[index : index + 2])
        own = _own_frequency(rows, int(index))
        if own is not None and own.alias != frequency.alias and hi - lo > 1:
            other.setdefault(own.alias, []).append(rows.ids[index])
        else:
            irregular.append(_irregular(rows, frequency, int(index), off[lo:hi]))
    if not is_wanted:
        for index in _suspects(rows, frequency, series):
            own = _own_frequency(rows, int(index))
            if own is not None and own.alias != frequency.alias:
                other.setdefault(own.alias, []).append(rows.ids[index])
    return ([_mixed(rows, frequency, other)] if other else []) + irregular


def off_grid_rows(rows: SortedRows, frequency: Frequency) -> NDArray[np.int64]:
    """Sorted rows that do not lie on the grid that most rows of their series lie on."""
    units, rest = frequency.units(rows.stamps)
    phase = units % frequency.step
    if frequency.kind not in ("integer", "fixed"):
        phase = phase + frequency.step * (rest + DAY)
    lengths = np.diff(rows.offsets)
    off = phase != np.repeat(phase[np.minimum(rows.offsets[:-1], max(len(phase) - 1, 0))], lengths)
    for index in np.unique(rows.series_of(np.flatnonzero(off))):
        mine = slice(rows.offsets[index], rows.offsets[index + 1])
        values, counts = np.unique(phase[mine], return_counts=True)
        off[mine] = phase[mine] != values[np.argmax(counts)]
    return np.flatnonzero(off)


def _suspects(rows: SortedRows, frequency: Frequency, skip: NDArray[np.int64]) -> NDArray[np.int64]:
    """Series on the grid of which less than half the steps have the common length: sparse, or of a coarser step."""
    units = frequency.units(rows.stamps)[0]
    lengths = np.diff(rows.offsets)
    one = np.zeros(len(units), np.bool_)
    one[1:] = np.diff(units) == frequency.step
    one[rows.offsets[:-1][lengths > 0]] = False
    share = np.add.reduceat(one, rows.offsets[:-1]) * 2 < lengths - 1
    found = np.flatnonzero(share & (lengths >= _FEW_ROWS))
    return found[~np.isin(found, skip)]


def _own_frequency(rows: SortedRows, index: int) -> Frequency | None:
    """The step of one series alone, if it is regular (gaps allowed)."""
    stamps = rows.stamps[rows.offsets[index] : rows.offsets[index + 1]]
    if len(stamps) < 3:
        return None
    single = SortedRows((rows.ids[index],), np.array([0, len(stamps)]), stamps, None, rows.time_kind, None)
    frequency = _most_common(single)
    if frequency is None:
        return None
    steps = np.diff(frequency.units(stamps)[0])
    divisor = int(np.gcd.reduce(steps))
    return frequency if divisor == frequency.step and not len(off_grid_rows(single, frequency)) else None


def _mixed(rows: SortedRows, frequency: Frequency, other: dict[str, list[str]]) -> Problem:
    count = Counter({alias: len(names) for alias, names in other.items()})
    named = "; ".join(
        f"{alias}: {number} series ({', '.join(repr(name) for name in other[alias][:MAX_SHOWN])})"
        for alias, number in count.most_common(MAX_SHOWN)
    )
    rest = len(rows.ids) - sum(count.values())
    message = f"has series of different frequencies: {frequency.alias}: {rest} series; {named}."
    remedy = "Train one model per frequency: split the file, or resample the series to one step."
    return Problem("mixed_frequencies", "data", message, remedy)


def _irregular(rows: SortedRows, frequency: Frequency, index: int, off: NDArray[np.int64]) -> Problem:
    length = int(rows.offsets[index + 1] - rows.offsets[index])
    message = (
        f"{len(off)} of {length} rows lie off a regular {frequency.alias} grid, first {rows.time_text(int(off[0]))}."
    )
    step = _nice_step(frequency)
    if rows.time_kind == "integer":
        remedy = "Renumber the rows, or set data.freq to the smallest step."
    else:
        remedy = (
            "Put the rows on a grid first, for instance with pandas: "
            f"df.set_index('ds').groupby('unique_id')['y'].resample('{step}').mean(); "
            "or let gradcast do it, data.irregular=resample with data.freq; or set data.freq to the finest real step."
        )
    return Problem("irregular_timestamps", f"series {rows.ids[index]!r}", message, remedy)


_NICE_STEPS = tuple(
    number * unit
    for unit, numbers in ((SECOND, (1, 5, 10, 30)), (MINUTE, (1, 5, 10, 15, 30)), (HOUR, (1, 3, 6, 12)), (DAY, (1, 7)))
    for number in numbers
)  # fmt: skip


def _nice_step(frequency: Frequency) -> str:
    """The alias of a step that people would resample to: of about the most common length."""
    if frequency.kind != "fixed" or frequency.step in _NICE_STEPS:
        return frequency.alias
    nearest = min(_NICE_STEPS, key=lambda step: abs(np.log(step / frequency.step)))
    return build_frequency("fixed", nearest, np.zeros(0, np.int64)).alias


def require_grid(finding: FrequencyFinding) -> Frequency:
    """The frequency of a finding without problems.

    Raises:
        DataError: With the problems.
    """
    if finding.problems or finding.frequency is None:
        raise DataError(finding.problems)
    return finding.frequency
