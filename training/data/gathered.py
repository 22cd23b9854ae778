"""Rows of a parquet table, column by column, before there is a frame of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from training.config import DataConfig
from training.data.collectors import Collector
from training.data.layout import Layout
from training.data.readers import frame_of_columns


@dataclass(frozen=True)
class GatheredRows:
    """Some rows of a table.

    Attributes:
        columns: Its columns by name.
        num_rows: How many rows.
        layout: Which column is what.
        path: Of the table; names a single series.
        config: Covariates.
        id_hint: What to say about timestamps that repeat.
    """

    columns: Mapping[str, Collector]
    num_rows: int
    layout: Layout
    path: Path
    config: DataConfig
    id_hint: str | None

    def frame(self) -> pd.DataFrame:
        """The rows as `training.data.readers.read_frame` describes them."""
        columns = {name: column.column() for name, column in self.columns.items()}
        return frame_of_columns(columns, self.layout, self.path, self.config, self.id_hint)
