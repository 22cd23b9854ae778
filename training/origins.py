"""Rolling origins: where in which series a backtest forecasts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Integer

from training.data.panel import Panel
from training.data.rows import series_blocks
from training.data.splits import Splits
from training.errors import DataError, Problem

Part = Literal["val", "test"]


@dataclass(frozen=True)
class Origins:
    """Windows to forecast, ordered by series, then by time.

    Attributes:
        series: Position of each window's series in the panel.
        cutoff: Rows of that series that are known, counted from its start; the first forecast row.
        horizon: Steps forecast from each cutoff.
        step_size: Steps between the cutoffs of a series.
        part: Part of the data the targets lie in.
        num_later: Origins that the part holds after each one in its series; equal numbers are one round of a rolling
            evaluation.
    """

    series: Integer[np.ndarray, " W"]
    cutoff: Integer[np.ndarray, " W"]
    horizon: int
    step_size: int
    part: Part
    num_later: Integer[np.ndarray, " W"]

    def __len__(self) -> int:
        return len(self.series)

    @property
    def overlap(self) -> int:
        """Neighbouring origins of a series that share targets, itself included."""
        return -(-self.horizon // self.step_size)

    def select(self, chosen: Bool[np.ndarray, " W"]) -> Origins:
        """The chosen windows alone."""
        return replace(
            self, series=self.series[chosen], cutoff=self.cutoff[chosen], num_later=self.num_later[chosen]
        )

    def rounds(self, size: int) -> list[Origins]:
        """The windows in groups of `size` rounds, oldest first: what one fit forecasts before the next is made."""
        number = (int(self.num_later.max()) - self.num_later) // size
        return [self.select(number == k) for k in range(int(number.max()) + 1) if (number == k).any()]


def build_origins(
    panel: Panel,
    splits: Splits,
    part: Part,
    horizon: int,
    step_size: int | None = None,
    n_windows: int | None = None,
    max_windows: int | None = None,
) -> Origins:
    """Place the rolling origins of every series in one part of the data.

    The last window of a series ends with the last row of the part; earlier ones step back from there while their
    targets stay inside the part. Origins without a single observed value before them are left out: there is nothing to
    forecast from.

    Args:
        panel: The series.
        splits: Where training, validation and test rows end.
        part: `val` or `test`.
        horizon: Steps to forecast.
        step_size: Steps between origins; None is one horizon, so that every target is scored once.
        n_windows: Origins per series, the newest ones; None is all that fit.
        max_windows: Origins in all; more are thinned evenly over series and time.

    Returns:
        At least one origin.

    Raises:
        DataError: If an argument is below 1, the part holds no window of any series, or fewer than `n_windows`.
    """
    step_size = horizon if step_size is None else step_size
    _check_positive(horizon=horizon, step_size=step_size, n_windows=n_windows, max_windows=max_windows)
    start, stop = _bounds(panel, splits, part)
    fitting = np.where(stop - start >= horizon, (stop - start - horizon) // step_size + 1, 0)
    _check_enough(fitting, part, horizon, step_size, n_windows, longest=int((stop - start).max(initial=0)))
    count = fitting if n_windows is None else np.minimum(fitting, n_windows)
    series = np.repeat(np.arange(len(count)), count)
    steps_back = np.repeat(np.cumsum(count), count) - 1 - np.arange(count.sum())
    cutoff = stop[series] - horizon - step_size * steps_back
    known = cutoff > _first_observed(panel)[series]
    series, cutoff, steps_back = series[known], cutoff[known], steps_back[known]
    if not len(series):
        raise DataError(
            [Problem("no_history", f"{part} windows", "have no observed value before any of their origins.")]
        )
    if max_windows is not None and len(series) > max_windows:
        kept = np.linspace(0, len(series) - 1, max_windows).round().astype(np.int64)
        series, cutoff, steps_back = series[kept], cutoff[kept], steps_back[kept]
    return Origins(series, cutoff, horizon, step_size, part, steps_back)


def _check_positive(**arguments: int | None) -> None:
    problems = [
        Problem("backtest_invalid", name, f"must be at least 1, but is {value} instead.")
        for name, value in arguments.items()
        if value is not None and value < 1
    ]
    if problems:
        raise DataError(problems)


def _check_enough(
    fitting: Integer[np.ndarray, " N"], part: Part, horizon: int, step_size: int, n_windows: int | None, longest: int
) -> None:
    most, wanted = int(fitting.max(initial=0)), n_windows or 1
    if most >= wanted:
        return
    needed = horizon + step_size * (wanted - 1)
    raise DataError(
        [
            Problem(
                "backtest_too_short",
                f"data.{part}_size",
                f"must leave at least {needed} steps for {wanted} window(s) of horizon {horizon} "
                f"every {step_size} steps, but the longest {part} part has {longest} instead.",
                f"Set data.{part}_size: {needed}, or ask for fewer windows.",
            )
        ]
    )


def _bounds(panel: Panel, splits: Splits, part: Part) -> tuple[Integer[np.ndarray, " N"], Integer[np.ndarray, " N"]]:
    """First and one past the last target row of the part, per series; empty for excluded series."""
    start, stop = (splits.train_end, splits.val_end) if part == "val" else (splits.val_end, np.diff(panel.offsets))
    is_excluded = np.isin(np.array(panel.ids), list(splits.excluded))
    return start, np.where(is_excluded, start, stop)


def _first_observed(panel: Panel) -> Integer[np.ndarray, " N"]:
    """Rows from each series' start to its first observed value; the length of the series where there is none."""
    found = []
    for first, stop in series_blocks(panel.offsets):
        starts, ends = panel.offsets[first:stop], panel.offsets[first + 1 : stop + 1]
        rows = np.flatnonzero(panel.observed[starts[0] : ends[-1]]) + starts[0]
        newest = np.append(rows, ends[-1])[np.searchsorted(rows, starts)]
        found.append(np.minimum(newest, ends) - starts)
    return np.concatenate(found)


def target_rows(
    panel: Panel, series: Integer[np.ndarray, " W"], cutoff: Integer[np.ndarray, " W"], horizon: int
) -> tuple[Integer[np.ndarray, "W H"], Bool[np.ndarray, "W H"]]:
    """Rows of the store that hold the targets, and which of them are inside their series and observed.

    Rows past the end of a series point at its last row and are marked unobserved.
    """
    rows = panel.offsets[series][:, None] + cutoff[:, None] + np.arange(horizon)
    inside = rows < panel.offsets[series + 1][:, None]
    rows = np.where(inside, rows, panel.offsets[series + 1][:, None] - 1)
    return rows, inside & panel.observed[rows]
