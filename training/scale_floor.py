"""How much a series varies, and the smallest scale that its errors are measured in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.data.panel import Panel
from training.data.rows import series_blocks
from training.data.splits import Splits
from training.losses import SCALE_FLOOR_SHARE


def series_scale_floor(panel: Panel, splits: Splits, scaled: bool) -> Tensor:
    """Smallest scale of each series' errors: a share of its standard deviation over the training rows.

    Args:
        panel: The series.
        splits: Where training rows end.
        scaled: False if the network does not scale: then errors count as they are.

    Returns:
        One floor per series in the unit of `y`; 0 where there is none.
    """
    if not scaled:
        return torch.zeros(len(panel.ids), dtype=torch.float64)
    return series_spread(panel, splits) * SCALE_FLOOR_SHARE


def series_spread(panel: Panel, splits: Splits) -> Tensor:
    """Standard deviation of each series over its training rows, in the unit of `y`; 0 where there are none."""
    counts, sums, squares = _training_sums(panel, splits)
    mean = sums / np.maximum(counts, 1)
    return torch.from_numpy(np.sqrt(np.maximum(squares / np.maximum(counts, 1) - mean**2, 0.0)))


def _training_sums(panel: Panel, splits: Splits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number, sum and sum of squares of the observed training values of every series; some million rows at a time."""
    blocks = [_block_sums(panel, splits, first, stop) for first, stop in series_blocks(panel.offsets)]
    counts, sums, squares = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return counts, sums, squares


def _block_sums(panel: Panel, splits: Splits, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    begin, end = panel.offsets[first], panel.offsets[stop]
    starts, train_end = panel.offsets[first:stop] - begin, splits.train_end[first:stop]
    # Interleaved [start, train_end) pairs; the even entries of reduceat are the training rows.
    edges = np.stack((starts, np.minimum(starts + train_end, end - begin)), axis=1).reshape(-1)
    observed = np.append(panel.observed[begin:end], False)
    values = np.where(observed, np.append(panel.values[begin:end], 0.0), 0.0).astype(np.float64)

    def total(terms: np.ndarray) -> np.ndarray:
        return np.where(train_end <= 0, 0.0, np.add.reduceat(terms, edges)[::2])

    return total(observed.astype(np.float64)), total(values), total(values**2)
