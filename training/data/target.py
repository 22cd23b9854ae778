"""The target on its grid: copied into the store, described, filled."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import FillPolicy
from training.data.assembly import Grid, fill_missing
from training.data.rows import SortedRows, block_edges
from training.data.steps import Frequency
from training.data.store import Storage
from training.data.timestamps import TimeKind, as_times
from training.errors import MAX_SHOWN, DataError, Problem


@dataclass(frozen=True)
class GridTarget:
    """A target on a regular grid.

    Attributes:
        ids: Names of the kept series.
        offsets: First row of each of them in the store, and the end.
        starts: First timestamp of each.
        dropped: Names of series without a single value.
        num_trimmed: Rows before the first and after the last value of their series that are left out.
        frequency: Step between them.
        time_kind: Dates or integers.
        timezone: Zone of the timestamps, or None.
        newest: Last timestamp of the data.
        values: The store of `y`, 0 where missing.
        observed: True where a value is real.
        storage: Keeps files of mapped arrays alive; None if there are none.
    """

    ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    dropped: tuple[str, ...]
    num_trimmed: int
    frequency: Frequency
    time_kind: TimeKind
    timezone: str | None
    newest: int
    values: NDArray[np.float32]
    observed: NDArray[np.bool_]
    storage: Storage | None = None


def allocate(storage: Storage | None, name: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """An array in memory, or in a file of the storage."""
    if storage is None or 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(storage.directory / name, dtype, "w+", shape=shape)


def store_target(
    grid: Grid, rows: SortedRows, values: NDArray[np.floating], storage: Storage | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Copy the target into the store, block by block so that no second copy of it ever exists."""
    store = allocate(storage, "values", (grid.num_rows,), np.float32)
    observed = allocate(storage, "observed", (grid.num_rows,), np.bool_)
    for start, stop in block_edges(grid.num_rows):
        source = slice(start, stop) if grid.source is None else grid.source[start:stop]
        row = source if rows.order is None else rows.order[source]
        block = values[row].astype(np.float32)
        if grid.source is not None:
            block[grid.source[start:stop] < 0] = np.nan
        np.logical_not(np.isnan(block), out=observed[start:stop])
        store[start:stop] = np.nan_to_num(block, copy=False)
    return store, observed


def target_notes(target: GridTarget) -> list[str]:
    """What the target shows and what was left out of it."""
    notes, offsets = [], target.offsets
    if target.dropped:
        notes.append(f"{len(target.dropped)} series without any value left out: {_some(target.dropped)}")
    lowest = np.minimum.reduceat(target.values, offsets[:-1])
    flat = (lowest == np.maximum.reduceat(target.values, offsets[:-1])) & (np.diff(offsets) > 1)
    constant = tuple(target.ids[i] for i in np.flatnonzero(flat))
    if constant:
        notes.append(f"{len(constant)} series constant: {_some(constant)}")
    if target.num_trimmed:
        notes.append(f"{target.num_trimmed:,} rows before the first or after the last value of their series left out")
    num_missing = int(len(target.observed) - np.count_nonzero(target.observed))
    if num_missing:
        notes.append(f"{num_missing:,} of {len(target.observed):,} steps have no value of y")
    return notes


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(repr(name) for name in names[:MAX_SHOWN]) + more


_FILL_SAYS = {
    "ffill": "filled with the value before, as context only",
    "linear": "interpolated, as context only and never with values after a cutoff",
    "zero": "taken as 0",
}


def fill_target(target: GridTarget, policy: FillPolicy, notes: list[str]) -> NDArray[np.bool_] | None:
    """Fill missing values in place, and say so.

    Returns:
        As `fill_missing`.

    Raises:
        DataError: If there are any and the policy is `error`.
    """
    num_missing = int(len(target.observed) - np.count_nonzero(target.observed))
    if num_missing and policy == "error":
        raise DataError(_missing_problems(target))
    if num_missing and policy in _FILL_SAYS:
        notes.append(f"data.fill: {num_missing:,} missing values of y {_FILL_SAYS[policy]}")
    return fill_missing(target.values, target.observed, target.offsets, policy)


def _missing_problems(target: GridTarget) -> list[Problem]:
    problems = []
    for i, (start, stop) in enumerate(pairwise(target.offsets)):
        missing = np.flatnonzero(~target.observed[start:stop])
        if len(missing):
            stamp = target.frequency.range(int(target.starts[i]), int(missing[0]), int(missing[0]) + 1)
            when = as_times(stamp, target.time_kind, target.timezone)[0]
            message = f"{len(missing)} of {stop - start} steps have no value, first {when}."
            remedy = "Bring the values, or set data.fill to mask, ffill, linear or zero."
            problems.append(Problem("target_missing", f"series {target.ids[i]!r}", message, remedy))
    return problems
