"""One part of a bulk forecast: rows in, a parquet file out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from models.bundle import Bundle, BundleManifest
from models.forecaster import Forecaster
from training.bulk.plan import DonePart, Part, Refusal, note_path, write_document
from training.data.halving import absent_series, try_series
from training.data.parquet_folder import ParquetTable
from training.forecasting import PanelForecast, build_request_panel, forecast_panel, forecast_times, interpolate_levels

# More in one part is no matter of a few series: the part is refused as a whole.
MAX_REFUSED = 100


def write_part(bundle: Bundle, table: ParquetTable, part: Part, output: Path, number: int) -> DonePart:
    """Forecast the series of a part and write its file, then the note that it is done.

    Args:
        bundle: The model.
        table: Where its rows are.
        part: Which.
        output: The output folder.
        number: Of the part.

    Returns:
        What the note says.

    Raises:
        DataError: If the rows cannot be read, or more than `MAX_REFUSED` series cannot be forecast.
    """
    forecasts, refused = _forecast(bundle, table.read(part.pieces))
    path = output / part.name
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"_{path.name}.{os.getpid()}.unfinished")
    columns = column_names(bundle)
    joined = _to_table(forecasts, columns)
    pq.write_table(joined, unfinished, compression="zstd", compression_level=1, use_dictionary=["unique_id", "ds"])
    with unfinished.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    num_bytes = unfinished.stat().st_size
    os.replace(unfinished, path)
    done = DonePart(
        name=part.name,
        num_series=sum(forecast.panel.num_series for forecast in forecasts),
        num_rows=joined.num_rows,
        num_bytes=num_bytes,
        sha256=digest,
        refused=tuple(refused),
    )
    write_document(note_path(output, number), done)
    return done


def column_names(bundle: Bundle) -> tuple[str, ...]:
    """Columns of the output: as `PanelForecast.to_frame` names them."""
    return ("unique_id", "ds", "mean", *(f"{level:g}" for level in bundle.manifest.network.output_levels))


def _forecast(bundle: Bundle, frame: Any) -> tuple[list[PanelForecast], list[Refusal]]:
    fill = covariate_fill(bundle.forecaster, bundle.manifest)
    refused: list[Refusal] = []

    def attempt(rows: Any) -> PanelForecast:
        panel = build_request_panel(bundle.manifest, rows, fill)
        forecast = forecast_panel(bundle, panel)
        for name in absent_series(rows, panel.ids):
            refused.append(Refusal(unique_id=name, code="target_all_missing", message="has no value of y."))
        return forecast

    forecasts, spoiled = try_series(frame, attempt, MAX_REFUSED)
    refused += [Refusal(unique_id=name, code=problem.code, message=problem.message) for name, problem in spoiled]
    return forecasts, refused


def covariate_fill(forecaster: Forecaster, manifest: BundleManifest) -> Float[np.ndarray, " K"]:
    """Mean of every covariate over the training rows: what stands for a value never seen, whatever else is in a part."""
    columns = manifest.columns
    before = len(columns.future_features) - len(columns.calendar)
    loc = forecaster.past_loc.numpy()
    return np.concatenate([loc[:before], loc[before + len(columns.calendar) :]])


def _to_table(forecasts: Sequence[PanelForecast], columns: Sequence[str]) -> pa.Table:
    if not forecasts:
        return pa.schema([(name, pa.null()) for name in columns]).empty_table()
    return pa.Table.from_batches([_to_batch(forecast, columns) for forecast in forecasts])


def _to_batch(forecast: PanelForecast, columns: Sequence[str]) -> pa.RecordBatch:
    horizon = forecast.quantiles.shape[1]
    codes = np.repeat(np.arange(forecast.panel.num_series, dtype=np.int32), horizon)
    names = pa.DictionaryArray.from_arrays(codes, pa.array(forecast.panel.ids, pa.string()))
    times = pa.array(forecast_times(forecast.panel, horizon))
    mean = interpolate_levels(forecast.quantiles, forecast.levels, (0.5,))
    values = [pa.array(column.reshape(-1)) for column in (*np.moveaxis(mean, 2, 0), *np.moveaxis(forecast.quantiles, 2, 0))]
    return pa.RecordBatch.from_arrays([names.cast(pa.string()), times, *values], names=list(columns))
