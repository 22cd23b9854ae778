"""Windows by index: one gather per array and batch, no Python per window, no data loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from models.forecaster import CovariateStatistics, ForecastInputs
from training.data.holiday_dates import PREFIX, holiday_scale
from training.data.panel import Panel
from training.data.rows import block_edges
from training.data.splits import Splits
from training.data.tables import CovariateTables, has_context
from training.errors import DataError, Problem

# A standard deviation below this share of the column's magnitude is rounding, not variation.
_RELATIVE_FLOOR = 1e-5
# A flag of 0 and 1 is divided by its deviation, but never by less than this.
_RAREST_FLAG_SCALE = 0.1


class WindowBatch(NamedTuple):
    """A batch of windows, in the unit of `y`.

    Attributes:
        inputs: What the network reads.
        target: What it is to forecast, 0 where unknown.
        target_mask: True where the target is real.
        series: Series of each window.
        cutoff: Rows of that series that are known; the position of the first target row.
    """

    inputs: ForecastInputs
    target: Float[Tensor, "B H"]
    target_mask: Bool[Tensor, "B H"]
    series: Int64[Tensor, " B"]
    cutoff: Int64[Tensor, " B"]

    def rows(self, part: slice) -> WindowBatch:
        """Some of the windows, as views."""
        inputs = ForecastInputs(*(tensor[part] for tensor in self.inputs))
        return WindowBatch(inputs, self.target[part], self.target_mask[part], self.series[part], self.cutoff[part])


class WindowStore:
    """The panel as tensors, from which windows are gathered.

    On the CPU the tensors share the memory of the panel's arrays; on another device they are copied there once. The
    known-future channels and the calendar of a small panel are joined into one table, so that a batch costs one gather.

    Args:
        panel: The series.
        context_length: Past steps L of a window.
        horizon: Future steps H of a window.
        device: Where the tensors live.
    """

    def __init__(self, panel: Panel, context_length: int, horizon: int, device: str | torch.device = "cpu") -> None:
        panel = panel.extended(horizon)
        self.panel = panel
        self.context_length = context_length
        self.horizon = horizon
        self.device = torch.device(device)
        self._span = torch.arange(-context_length, horizon, device=self.device)
        self._offsets = self._tensor(panel.offsets[:-1])
        self._lengths = self._tensor(panel.lengths)
        # Cutoffs up to this one have their whole target inside the series.
        self._last_inside = self._lengths - horizon
        self._values = self._tensor(panel.values)
        self._observed = self._tensor(panel.observed)
        # A guessed value is context for the network, never something to forecast.
        self._shown = self._observed if panel.filled is None else self._tensor(panel.observed | panel.filled)
        self._has_guesses = panel.filled is not None
        self._newest_real = self._tensor(_newest_real(panel)) if self._has_guesses and panel.fill == "linear" else None
        self._static = self._tensor(panel.static)
        self._tables = CovariateTables(panel, context_length, horizon, self.device)

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def gather(self, series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"]) -> WindowBatch:
        """Collect windows.

        Context rows before the start of a series, and target rows past its end, are 0 and masked. A covariate that a
        row lacks has the value before it; in the padding, that of the first row.

        Args:
            series: Series of each window.
            cutoff: Rows of that series that are known, from 0 to its length: context is `[cutoff - L, cutoff)`, target
                `[cutoff, cutoff + H)`.

        Raises:
            IndexError: If a cutoff lies outside its series.
        """
        if series.device != self.device:
            series, cutoff = series.to(self.device), cutoff.to(self.device)
        # Windows inside their series are copied as runs of memory; at the edges each element needs its index and mask.
        room = torch.minimum(cutoff - self.context_length, self._last_inside.index_select(0, series) - cutoff)
        is_inside = len(room) > 0 and room.min().item() >= 0
        offset, split = self._offsets.index_select(0, series), self.context_length
        if is_inside or not has_context(cutoff, split):
            read = self._read_inside if is_inside else self._read_at_edges
            y, shown, real = read(offset, series, cutoff, self._span)
            context, seen, target, target_mask = y[:, :split], shown[:, :split], y[:, split:], real[:, split:]
        else:  # as every forecast is from the end of a series on
            target, _, target_mask = self._read_at_edges(offset, series, cutoff, self._span[split:])
            context, seen, _ = self._read_inside(offset, series, cutoff, self._span[:split])
        past, future = self._tables.gather(series, cutoff, is_inside)
        if self._has_guesses:
            target = torch.where(target_mask, target, 0.0)
        if self._newest_real is not None:
            context = self._without_hindsight(context, self._offsets[series], cutoff)
        inputs = ForecastInputs(context, seen, past, future, self._static.index_select(0, series))
        return WindowBatch(inputs, target, target_mask, series, cutoff)

    def _read_inside(
        self, offset: Int64[Tensor, " B"], series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"], span: Int64[Tensor, " W"]
    ) -> tuple[Float[Tensor, "B W"], Bool[Tensor, "B W"], Bool[Tensor, "B W"]]:
        """Values, whether they are shown, and whether they are real; of steps that begin with the context."""
        first, width = offset + (cutoff - self.context_length), len(span)
        y = _runs(self._values, width).index_select(0, first)
        real = _runs(self._observed, width).index_select(0, first)
        return y, _runs(self._shown, width).index_select(0, first) if self._has_guesses else real, real

    def _read_at_edges(
        self, offset: Int64[Tensor, " B"], series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"], span: Int64[Tensor, " W"]
    ) -> tuple[Float[Tensor, "B W"], Bool[Tensor, "B W"], Bool[Tensor, "B W"]]:
        length = self._lengths.index_select(0, series)
        if bool(((cutoff < 0) | (cutoff > length)).any()):
            raise IndexError("a cutoff lies outside its series")
        position = cutoff[:, None] + span
        inside = (position >= 0) & (position < length[:, None])
        row = (offset[:, None] + position.clamp(min=0).minimum(length[:, None] - 1)).view(-1)
        y = self._values.index_select(0, row).view(inside.shape).masked_fill_(~inside, 0.0)
        real = self._observed.index_select(0, row).view(inside.shape).logical_and_(inside)
        if not self._has_guesses:
            return y, real, real
        return y, self._shown.index_select(0, row).view(inside.shape).logical_and_(inside), real

    def _without_hindsight(
        self, context: Float[Tensor, "B L"], offset: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B L"]:
        """Repeat the last real value in a gap that the cutoff lies in: interpolation there would look ahead."""
        assert self._newest_real is not None
        newest = self._newest_real[offset + (cutoff - 1).clamp(min=0)]
        row = (offset + cutoff)[:, None] + self._span[: self.context_length]
        known = torch.where(cutoff > 0, self._values[newest], 0.0)
        return torch.where(row > newest[:, None], known[:, None], context)


def _runs(store: Tensor, width: int) -> Tensor:
    """Every run of so many neighbouring rows as a row of an overlapping view."""
    return store.as_strided((len(store) - width + 1, width), (1, 1))


def _newest_real(panel: Panel) -> NDArray[np.int64]:
    rows = np.where(panel.observed, np.arange(len(panel.observed), dtype=np.int64), 0)
    return np.maximum.accumulate(rows)


class TrainingWindows:
    """All windows whose target lies inside the training rows, sampled uniformly without ever being listed.

    A window has at least L rows of context, or half of what a short series offers; the rest is padding.

    Args:
        store: Where the windows are gathered.
        splits: Where the training rows end.

    Raises:
        DataError: If no series has a window.
    """

    def __init__(self, store: WindowStore, splits: Splits) -> None:
        usable = splits.train_end - store.horizon
        first = np.maximum(np.minimum(store.context_length, usable // 2), 1)
        counts = np.maximum(usable - first + 1, 0)
        if not counts.any():
            message = f"no series has {store.horizon + 1} training rows."
            raise DataError(
                [Problem("series_too_short", "data", message, "Lower model.horizon, or bring longer series.")]
            )
        self.num_windows = int(counts.sum())
        self._ends = torch.from_numpy(np.cumsum(counts))
        self._shift = torch.from_numpy(first - (np.cumsum(counts) - counts))

    def sample(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> tuple[Int64[Tensor, " B"], Int64[Tensor, " B"]]:
        """Draw windows with replacement.

        Args:
            batch_size: Windows to draw.
            generator: Of the random numbers, on the CPU.

        Returns:
            Series and cutoff of each.
        """
        return self.locate(torch.randint(self.num_windows, (batch_size,), generator=generator))

    def locate(self, number: Int64[Tensor, " B"]) -> tuple[Int64[Tensor, " B"], Int64[Tensor, " B"]]:
        """Series and cutoff of the windows with the given numbers, `0 .. num_windows - 1` by series and time."""
        series = torch.searchsorted(self._ends, number, right=True)
        return series, number + self._shift[series]

    def spread(self, num_wanted: int, seed: int = 0) -> tuple[Int64[Tensor, " B"], Int64[Tensor, " B"]]:
        """Series and cutoff of windows, one drawn from each of as many equal stretches; of all where they are few."""
        if self.num_windows <= num_wanted:
            return self.locate(torch.arange(self.num_windows))
        generator = torch.Generator().manual_seed(seed)
        place = torch.arange(num_wanted) + torch.rand(num_wanted, generator=generator, dtype=torch.float64)
        return self.locate((place * (self.num_windows / num_wanted)).long().clamp(max=self.num_windows - 1))


def validation_cutoffs(splits: Splits, max_windows: int = 1024) -> tuple[Int64[Tensor, " W"], Int64[Tensor, " W"]]:
    """Windows whose target lies inside the validation rows: a fixed selection, spread evenly over series and time.

    Args:
        splits: Where the validation rows are.
        max_windows: Windows at most.

    Returns:
        Series and cutoff of each.
    """
    counts = np.maximum(splits.val_end - splits.train_end - splits.horizon + 1, 0)
    ends = np.cumsum(counts)
    total = int(ends[-1])
    if total == 0:
        raise DataError(
            [Problem("series_too_short", "data", "no series holds a validation window.", "Raise data.val_size.")]
        )
    number = np.unique(np.linspace(0, total - 1, min(max_windows, total)).round().astype(np.int64))
    series = np.searchsorted(ends, number, side="right")
    cutoff = splits.train_end[series] + number - (ends - counts)[series]
    return torch.from_numpy(series), torch.from_numpy(cutoff)


def count_separate(series: Int64[Tensor, " W"], cutoff: Int64[Tensor, " W"], horizon: int) -> int:
    """How many of these windows, at most, have no target in common: of every series those a horizon apart."""
    count, last = 0, (-1, 0)
    for window in sorted(zip(series.tolist(), cutoff.tolist(), strict=True)):
        if window[0] != last[0] or window[1] - last[1] >= horizon:
            count, last = count + 1, window
    return count


def covariate_statistics(panel: Panel, splits: Splits) -> CovariateStatistics:
    """Mean and standard deviation of every covariate channel over the training rows of all series.

    The calendar's sines and cosines keep their unit: mean 0, deviation 1. So does the deviation of a column that hardly
    varies, or rounding noise would be blown up into a signal. A flag that is 0 or 1, holidays too, keeps its 0, and is
    made louder the rarer it is, up to tenfold: a holiday seen in one window of thirty must move the loss to be learned.

    Args:
        panel: The series.
        splits: Where the training rows end.
    """
    loc, scale = _moments(panel.covariates, lambda: _training_blocks(panel, splits))
    split = panel.num_future_channels
    calendar_scale = [
        holiday_scale(name.removeprefix(PREFIX), panel.columns.holidays) if name.startswith(PREFIX) else 1.0
        for name in panel.columns.calendar
    ]
    past_loc = np.concatenate([loc[:split], np.zeros(len(calendar_scale)), loc[split:]])
    past_scale = np.concatenate([scale[:split], calendar_scale, scale[split:]])
    trained = np.flatnonzero(splits.train_end > 0)
    static_loc, static_scale = _moments(panel.static, lambda: iter([trained] if len(trained) else []))
    if panel.columns.series:
        static_loc[-1], static_scale[-1] = 0.0, 1.0  # a number that is looked up
    tensors = (torch.from_numpy(array.astype(np.float32)) for array in (past_loc, past_scale, static_loc, static_scale))
    return CovariateStatistics(*tensors)


def _training_blocks(panel: Panel, splits: Splits) -> Iterator[NDArray[np.int64]]:
    """The training rows of the store in order, as many at a time as may be in memory."""
    ends = np.cumsum(np.minimum(splits.train_end, panel.lengths))
    for start, stop in block_edges(int(ends[-1])):
        number = np.arange(start, stop)
        series = np.searchsorted(ends, number, side="right")
        before = np.concatenate([[0], ends])[series]
        yield panel.offsets[series] + number - before


def _moments(
    table: NDArray[np.float32], blocks: Callable[[], Iterator[NDArray[np.int64]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    loc, scale = np.zeros(table.shape[1]), np.ones(table.shape[1])
    for channel in range(table.shape[1]):
        column = table[:, channel]
        sums = [(len(rows), _sums(column[rows].astype(np.float64))) for rows in blocks()]
        count = sum(length for length, _ in sums)
        total = sum(part.total for _, part in sums)
        if all(part.is_flag for _, part in sums):
            share = total / max(count, 1)
            scale[channel] = max(np.sqrt(share * (1.0 - share)), _RAREST_FLAG_SCALE) if 0.0 < share < 1.0 else 1.0
            continue
        mean = total / count
        variance = sum(float(((column[rows].astype(np.float64) - mean) ** 2).sum()) for rows in blocks()) / count
        loc[channel] = mean
        magnitude = max(abs(mean), *(part.largest for _, part in sums))
        scale[channel] = np.sqrt(variance) if np.sqrt(variance) > _RELATIVE_FLOOR * magnitude else max(1.0, magnitude)
    return loc, scale


class _Sums(NamedTuple):
    total: float
    largest: float
    is_flag: bool


def _sums(part: NDArray[np.float64]) -> _Sums:
    return _Sums(float(part.sum()), float(np.abs(part).max()), bool(((part == 0) | (part == 1)).all()))
