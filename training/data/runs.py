"""A column of integers kept as runs of one step for as long as that saves memory: most tables are sorted by series and time.

Hourly times of a thousand series are a thousand runs instead of a million numbers, and where the runs begin says all that
there is to know about order, repetition and gaps. Nothing is lost: what is no run becomes a plain array.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A run takes as much memory as two numbers; with fewer rows than this in each, plain numbers are as good and simpler.
_ROWS_PER_RUN = 16
_FREE_RUNS = 64
_BLOCK_ROWS = 1 << 18


class RunColumn:
    """Integers that arrive in order of their rows.

    Args:
        num_rows: Rows of the whole column.
        dtype: Type of its numbers.
        step: Difference between the neighbours of a run; None takes the first that two pairs of neighbours share.
    """

    def __init__(self, num_rows: int, dtype: type[np.signedinteger], step: int | None = None) -> None:
        self.num_rows, self.dtype, self.step = num_rows, dtype, step
        self._starts: list[NDArray[np.int64]] = []
        self._firsts: list[NDArray[np.signedinteger]] = []
        self._num_runs = 0
        self._last: int | None = None
        self._plain: NDArray[np.signedinteger] | None = None

    def add(
        self, start: int, values: NDArray[np.signedinteger], meanings: NDArray[np.signedinteger] | None = None
    ) -> None:
        """Take the rows `start .. start + len(values) - 1`.

        Args:
            start: First row.
            values: Its number and those of the rows after it.
            meanings: Number that each of `values` stands for, if they are only positions in here; for a step of 0.
        """
        if self._plain is None and len(values):
            self._add_runs(start, values, meanings)
            if self._num_runs > _FREE_RUNS + (start + len(values)) // _ROWS_PER_RUN:
                self._plain = self._unfold(start + len(values))
        elif self._plain is not None:
            self._plain[start : start + len(values)] = values if meanings is None else meanings[values]

    @property
    def is_plain(self) -> bool:
        """Whether the column turned out not to consist of runs."""
        return self._plain is not None

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of every run, while there are runs."""
        return np.concatenate([*self._starts, np.zeros(0, np.int64)])

    @property
    def firsts(self) -> NDArray[np.signedinteger]:
        """First number of every run, while there are runs."""
        return np.concatenate([*self._firsts, np.zeros(0, self.dtype)])

    def numbers(self) -> NDArray[np.signedinteger]:
        """Every row's number."""
        return self._unfold(self.num_rows) if self._plain is None else self._plain

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.signedinteger]:
        """The numbers of some rows."""
        if self._plain is not None:
            return self._plain[rows]
        starts = self.starts
        run = np.searchsorted(starts, rows, side="right") - 1
        return np.asarray(self.firsts[run] + (rows - starts[run]) * (self.step or 0), self.dtype)

    def _add_runs(
        self, start: int, values: NDArray[np.signedinteger], meanings: NDArray[np.signedinteger] | None
    ) -> None:
        if self.step is None:
            self.step = _shared_step(values)
        changes = values[1:] != values[:-1] if self.step == 0 else values[1:] - values[:-1] != self.step
        begins = np.concatenate([[0], np.flatnonzero(changes) + 1])
        firsts, last = values[begins], values[-1:]
        if meanings is not None:
            firsts, last = meanings[firsts], meanings[last]
        skip = int(self._last is not None and int(firsts[0]) - self._last == self.step)
        self._last = int(last[0])
        self._starts.append(begins[skip:] + start)
        self._firsts.append(firsts[skip:])
        self._num_runs += len(begins) - skip

    def _unfold(self, stop: int) -> NDArray[np.signedinteger]:
        """A plain array with the rows before `stop` filled in, block by block so that no second one exists."""
        numbers, starts, step = np.empty(self.num_rows, self.dtype), self.starts, self.step or 0
        origins = self.firsts - starts.astype(self.dtype) * step
        # Arrays wrap around where numbers of Python would not fit: what is added beyond the end comes off again.
        ramp = np.arange(_BLOCK_ROWS + 1) * step
        for low in range(0, stop, _BLOCK_ROWS):
            high = min(low + _BLOCK_ROWS, stop)
            mine = slice(int(np.searchsorted(starts, low, side="right")) - 1, int(np.searchsorted(starts, high)))
            lengths = np.diff(np.maximum(starts[mine], low), append=high)
            numbers[low:high] = np.repeat(origins[mine], lengths)
            if step:
                numbers[low:high] += ramp[: high - low]
                origins += ramp[-1]
        return numbers


def _shared_step(values: NDArray[np.signedinteger]) -> int:
    steps = np.diff(values)
    shared = np.flatnonzero(steps[1:] == steps[:-1])
    return int(steps[shared[0]]) if len(shared) else 0
