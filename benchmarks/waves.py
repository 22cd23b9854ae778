"""A panel of any size in parquet, for benchmarks that need a large one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_waves(folder: Path, num_series: int, num_rows: int, series_per_file: int) -> None:
    """Hourly series with a daily wave and noise, from 2026 on, in a new folder of files."""
    hours = np.datetime64("2026-01-01", "us") + np.arange(num_rows) * np.timedelta64(3600, "s")
    wave = np.sin(np.arange(num_rows) * 2 * np.pi / 24)
    folder.mkdir()
    for first in range(0, num_series, series_per_file):
        count = min(series_per_file, num_series - first)
        random = np.random.default_rng(first)
        level, height = random.normal(50, 10, (count, 1)), random.uniform(1, 9, (count, 1))
        y = level + height * wave + random.standard_normal((count, num_rows))
        names = np.array([f"series_{number:07d}" for number in range(first, first + count)])
        table = pa.table({
            "unique_id": pa.array(names.astype(object)).take(pa.array(np.repeat(np.arange(count), num_rows))),
            "ds": np.tile(hours, count),
            "y": y.astype(np.float32).reshape(-1),
        })  # fmt: skip
        pq.write_table(table, folder / f"{first:07d}.parquet", row_group_size=1_000_000)
