"""The rows of a frame in order: series by series, oldest first, with every row's place in the file remembered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.timestamps import TimeKind, as_times, parse_timestamps
from training.errors import MAX_SHOWN, DataError, Problem

# Rows looked at together, so that checks of a large file need no copy of it.
BLOCK_ROWS = 1 << 20
ATTRS_KEY = "gradcast"


@dataclass(frozen=True)
class SortedRows:
    """Where each series begins and when each of its rows is.

    Attributes:
        ids: Series names, in order of first appearance.
        offsets: First row of each series among the sorted rows, and the end.
        stamps: Timestamps, non-decreasing within a series.
        order: Frame row of each sorted row; None if the frame was sorted already.
        time_kind: Whether stamps are microseconds or plain integers.
        timezone: Zone of the timestamps, or None.
        notes: What was done or decided, to be said aloud.
    """

    ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    stamps: NDArray[np.int64]
    order: NDArray[np.int64] | None
    time_kind: TimeKind
    timezone: str | None
    notes: tuple[str, ...] = ()

    def frame_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Frame rows of sorted rows."""
        return rows if self.order is None else self.order[rows]

    def arrange(self, values: NDArray[Any]) -> NDArray[Any]:
        """Bring a column of the frame into the sorted order."""
        return values if self.order is None else values[self.order]

    def series_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Series that sorted rows belong to."""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def time_text(self, row: int) -> str:
        """A sorted row's timestamp as text."""
        return str(as_times(self.stamps[row : row + 1], self.time_kind, self.timezone)[0])


def place(frame: pd.DataFrame, row: int) -> str:
    """Say where a row of the frame is: the line of the file it was read from, if it was."""
    line = file_line(frame, row)
    return f"row {row + 1}" if line is None else f"line {line}"


def file_line(frame: pd.DataFrame, row: int) -> int | None:
    """Line of the file (1 is the first) that a frame row was read from; None if it was not read from text."""
    origin = frame.attrs.get(ATTRS_KEY, {})
    first = origin.get("first_line")
    if first is None:
        return None
    per_series = origin.get("rows_per_series")
    return int(first + (row % per_series if per_series else row))


def block_edges(count: int) -> Iterator[tuple[int, int]]:
    """Bounds of blocks of rows that cover `count` rows."""
    for start in range(0, count, BLOCK_ROWS):
        yield start, min(start + BLOCK_ROWS, count)


def series_blocks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Bounds of blocks of whole series, each of about `BLOCK_ROWS` rows: what one may copy of a store that is mapped.

    Args:
        offsets: First row of each series, and the end.
    """
    first, last = 0, len(offsets) - 1
    while first < last:
        stop = max(int(np.searchsorted(offsets, offsets[first] + BLOCK_ROWS, side="right")) - 1, first + 1)
        yield first, min(stop, last)
        first = stop


def training_mask(
    offsets: NDArray[np.int64], train_end: NDArray[np.int64], start: int, stop: int
) -> NDArray[np.bool_]:
    """Which of the rows `start .. stop - 1` of a store are training rows.

    Args:
        offsets: First row of each series, and the end.
        train_end: Training rows of each series.
        start: First row.
        stop: Behind the last row.
    """
    rows = np.arange(start, stop)
    series = np.searchsorted(offsets, rows, side="right") - 1
    return np.asarray(rows - offsets[series] < train_end[series])


def sort_rows(frame: pd.DataFrame) -> SortedRows:
    """Find the series and bring their rows into order, without copying what is in order.

    Args:
        frame: Columns `unique_id` and `ds`.

    Raises:
        DataError: If a name or a time is missing or unreadable.
    """
    times = parse_timestamps(frame["ds"])
    if times.refusal is not None:
        raise DataError([times.refusal])
    codes, names = _series_codes(frame["unique_id"])
    problems = [
        *_row_problems(frame, codes < 0, "id_missing", "unique_id is empty", "Name the series of every row."),
        *_row_problems(frame, times.bad, "time_unreadable", "ds is missing or no time", "Correct or remove the row."),
    ]
    if problems:
        raise DataError(problems)
    starts = np.flatnonzero(np.concatenate([[len(codes) > 0], codes[1:] != codes[:-1]]))
    present = codes[starts]
    is_grouped = len(np.unique(present)) == len(present)
    order, notes, stamps = None, list(times.notes), times.stamps
    if not is_grouped:
        firsts, first_rows = np.unique(codes, return_index=True)
        present = firsts[np.argsort(first_rows)]
        rank = np.zeros(len(names), np.int64)
        rank[present] = np.arange(len(present))
        order = np.lexsort((stamps, rank[codes]))
        starts = np.concatenate([[0], np.cumsum(np.bincount(rank[codes], minlength=len(present)))[:-1]])
    offsets = np.append(starts, len(codes)).astype(np.int64)
    if is_grouped and (unsorted := _unsorted_series(stamps, offsets)):
        series = np.repeat(np.arange(len(present)), np.diff(offsets))
        order = np.lexsort((stamps, series))
        some = ", ".join(repr(names[present[i]]) for i in unsorted[:MAX_SHOWN])
        notes.append(f"rows of {len(unsorted)} series were not in order of time and were sorted ({some})")
    elif order is not None:
        notes.append("rows of different series were interleaved and were sorted by series")
    return SortedRows(
        ids=tuple(names[code] for code in present),
        offsets=offsets,
        stamps=stamps if order is None else stamps[order],
        order=order,
        time_kind=times.time_kind,
        timezone=times.timezone,
        notes=tuple(notes),
    )


def _series_codes(column: pd.Series) -> tuple[NDArray[np.integer], list[str]]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(column.cat.codes), list(map(str, column.cat.categories.to_numpy(object)))
    codes, names = pd.factorize(column)
    return codes, [_as_name(name) for name in names]


def _as_name(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _unsorted_series(stamps: NDArray[np.int64], offsets: NDArray[np.int64]) -> list[int]:
    found: list[int] = []
    first_rows = offsets[1:-1]
    for start, stop in block_edges(max(len(stamps) - 1, 0)):
        back = np.flatnonzero(stamps[start + 1 : stop + 1] < stamps[start:stop]) + start + 1
        if len(back):
            inside = back[~np.isin(back, first_rows)]
            found.extend(np.unique(np.searchsorted(offsets, inside, side="right") - 1).tolist())
    return sorted(set(found))


def _row_problems(frame: pd.DataFrame, bad: NDArray[np.bool_], code: str, message: str, remedy: str) -> list[Problem]:
    rows = np.flatnonzero(bad)
    if not len(rows):
        return []
    where = ", ".join(place(frame, int(row)) for row in rows[:MAX_SHOWN])
    more = f" and {len(rows) - MAX_SHOWN} more" if len(rows) > MAX_SHOWN else ""
    return [Problem(code, f"{where}{more}", f"{message}.", remedy)]


def duplicate_rows(rows: SortedRows) -> NDArray[np.int64]:
    """Sorted rows that repeat the timestamp of the row before them in their series."""
    found = []
    for start, stop in block_edges(max(len(rows.stamps) - 1, 0)):
        same = np.flatnonzero(rows.stamps[start + 1 : stop + 1] == rows.stamps[start:stop]) + start + 1
        found.append(same[~np.isin(same, rows.offsets[1:-1])] if len(same) else same)
    return np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)


def duplicate_problems(rows: SortedRows, frame: pd.DataFrame) -> list[Problem]:
    """One problem per series in which a timestamp occurs more than once."""
    repeated = duplicate_rows(rows)
    if not len(repeated):
        return []
    values = frame["y"].to_numpy() if "y" in frame.columns else None
    hint = frame.attrs.get(ATTRS_KEY, {}).get("id_hint")
    problems = []
    series, first, count = np.unique(rows.series_of(repeated), return_index=True, return_counts=True)
    for index, position, times in zip(series, first, count, strict=True):
        mine = repeated[position : position + times]
        row, before = (int(rows.frame_rows(mine[:1] + shift)[0]) for shift in (0, -1))
        kind = "" if values is None else f" ({_conflicts(values, rows, mine)} of them with another value)"
        message = (
            f"{times} row(s) repeat a timestamp{kind}, first {rows.time_text(int(mine[0]))} "
            f"on {place(frame, before)} and {place(frame, row)}."
        )
        remedy = hint or "Keep one row per series and time, for instance df.drop_duplicates(['unique_id', 'ds'])."
        problems.append(Problem("duplicate_timestamps", f"series {rows.ids[index]!r}", message, remedy))
    return problems


def _conflicts(values: NDArray[np.generic], rows: SortedRows, repeated: NDArray[np.int64]) -> int:
    mine, before = values[rows.frame_rows(repeated)], values[rows.frame_rows(repeated - 1)]
    return int(np.sum([not (pd.isna(a) and pd.isna(b)) and a != b for a, b in zip(mine, before, strict=True)]))
