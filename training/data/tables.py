"""Covariate channels of the windows: joined into one table when that is small, read from the panel when it is not."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from training.data.panel import Panel

# A joined table up to this size is cheaper than two gathers and a concatenation per batch.
MAX_JOINED_BYTES = 128 * 2**20


class CovariateTables:
    """Past and future covariates of windows.

    Channels are in the order of `columns.past_features`: known-future columns, calendar, past-only columns.

    Args:
        panel: Series with calendar rows for the horizon.
        context_length: Past steps L of a window.
        horizon: Future steps H of a window.
        device: Where the tensors live.
        max_joined_bytes: Largest joined table.
    """

    def __init__(
        self,
        panel: Panel,
        context_length: int,
        horizon: int,
        device: torch.device,
        max_joined_bytes: int = MAX_JOINED_BYTES,
    ) -> None:
        self.context_length = context_length
        self.horizon = horizon
        self.num_future = panel.num_future_channels + len(panel.columns.calendar)
        self.num_channels = panel.covariates.shape[1] + len(panel.columns.calendar)
        self._known = panel.num_future_channels
        self._covariates: Tensor | None = None
        table, start = panel.calendar, panel.calendar_start
        if panel.covariates.shape[1]:
            extra = _future_rows(panel, horizon)
            num_rows = len(panel.values) + panel.num_series * horizon
            if num_rows * self.num_channels * 4 <= max_joined_bytes:
                table, start = _joined(panel, extra, horizon)
            else:
                self._covariates = torch.from_numpy(panel.covariates).to(device)
                self._extra = torch.from_numpy(extra).to(device)
        self._offsets = torch.from_numpy(panel.offsets[:-1]).to(device)
        self._lengths = torch.from_numpy(panel.lengths).to(device)
        self._table = torch.from_numpy(np.ascontiguousarray(table)).to(device)
        self._start = torch.from_numpy(start).to(device)
        self._span = torch.arange(-context_length, horizon, device=device)

    def gather(
        self, series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"], is_inside: bool
    ) -> tuple[Float[Tensor, "B L P"], Float[Tensor, "B H F"]]:
        """Covariates of windows.

        Args:
            series: Series of each window.
            cutoff: First target row of each.
            is_inside: Whether all the windows lie within their series.
        """
        split = self.context_length
        if not self.num_channels:
            empty = self._table.new_empty(len(series), split + self.horizon, 0)
            return empty[:, :split], empty[:, split:]
        # Their table has rows for the horizon: what does not begin before its series lies inside.
        block = self._read_table(series, cutoff, is_inside or has_context(cutoff, self.context_length))
        if self._covariates is not None:
            own = self._read_covariates(series, cutoff, is_inside)
            block = torch.cat([own[..., : self._known], block, own[..., self._known :]], dim=-1)
        return block[:, :split], block[:, split:, : self.num_future]

    def _read_table(
        self, series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"], is_inside: bool
    ) -> Float[Tensor, "B W P"]:
        start = self._start.index_select(0, series)
        if is_inside:
            return _read_runs(self._table, start + (cutoff - self.context_length), len(self._span))
        row = start[:, None] + (cutoff[:, None] + self._span).clamp(min=0)
        return self._table.index_select(0, row.view(-1)).view(*row.shape, -1)

    def _read_covariates(
        self, series: Int64[Tensor, " B"], cutoff: Int64[Tensor, " B"], is_inside: bool
    ) -> Float[Tensor, "B W K"]:
        assert self._covariates is not None
        offset = self._offsets.index_select(0, series)
        if is_inside:
            return _read_runs(self._covariates, offset + (cutoff - self.context_length), len(self._span))
        length = self._lengths.index_select(0, series)[:, None]
        position = (cutoff[:, None] + self._span).clamp(min=0)
        row = offset[:, None] + position.minimum(length - 1)
        block = self._covariates.index_select(0, row.view(-1)).view(*row.shape, -1)
        beyond = (position - length).clamp(0, self.horizon - 1)
        future = self._extra[series[:, None], beyond]
        known = torch.where((position >= length)[..., None], future, block[..., : self._known])
        return torch.cat([known, block[..., self._known :]], dim=-1)


def has_context(cutoff: Int64[Tensor, " B"], context_length: int) -> bool:
    """Whether no window begins before its series does."""
    return len(cutoff) > 0 and cutoff.min().item() >= context_length


def _read_runs(table: Float[Tensor, "R K"], first: Int64[Tensor, " B"], width: int) -> Float[Tensor, "B W K"]:
    """Runs of neighbouring rows, each one copy of memory."""
    rows, channels = table.shape
    runs = table.as_strided((rows - width + 1, width * channels), (channels, 1))
    return runs.index_select(0, first).view(len(first), width, channels)


def _future_rows(panel: Panel, horizon: int) -> NDArray[np.float32]:
    """Known-future channels of the `horizon` steps after each series, the newest repeated where there are too few."""
    split = panel.num_future_channels
    last = panel.covariates[panel.offsets[1:] - 1, :split]
    steps = np.concatenate([last[:, None], panel.future_extra], axis=1)
    return np.ascontiguousarray(steps[:, np.minimum(np.arange(1, horizon + 1), steps.shape[1] - 1)])


def _joined(panel: Panel, extra: NDArray[np.float32], horizon: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All channels of the rows of each series and of the steps after it, in one table."""
    lengths = panel.lengths
    start = panel.offsets[:-1] + np.arange(panel.num_series) * horizon
    known, split = panel.covariates.shape[1], panel.num_future_channels
    num_calendar = len(panel.columns.calendar)
    table = np.zeros((len(panel.values) + panel.num_series * horizon, known + num_calendar), np.float32)
    row = np.arange(len(panel.values)) + np.repeat(np.arange(panel.num_series) * horizon, lengths)
    after = (start + lengths)[:, None] + np.arange(horizon)
    table[row, :split] = panel.covariates[:, :split]
    table[after, :split] = extra
    table[row, split + num_calendar :] = panel.covariates[:, split:]
    if num_calendar:
        sizes = lengths + horizon
        position = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        table[:, split : split + num_calendar] = panel.calendar[np.repeat(panel.calendar_start, sizes) + position]
    return table, start.astype(np.int64)
