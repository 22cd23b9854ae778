"""The last rows of every series, kept in the bundle: a series that the model knows is forecast by name alone."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from training.data.panel import Panel
from training.data.splits import Splits


def write_context(panel: Panel, splits: Splits | None, context_length: int) -> bytes:
    """The last `context_length` rows of each series as parquet."""
    frames = []
    for series in range(panel.num_series):
        first, stop = int(panel.offsets[series]), int(panel.offsets[series + 1])
        start = max(first, stop - context_length)
        y = np.where(panel.observed[start:stop], panel.values[start:stop], np.nan)
        ds = panel.timestamps(series, start - first, stop - first)
        frames.append(pd.DataFrame({"unique_id": panel.ids[series], "ds": ds, "y": y}))
    buffer = io.BytesIO()
    pd.concat(frames).to_parquet(buffer, index=False)
    return buffer.getvalue()
