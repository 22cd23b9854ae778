"""Batch forecast from a file with a registered model or a bundle directory.

    gradcast forecast --model bike --data recent.csv --output forecast.csv
    gradcast forecast --bundle runs/bike/bundle --data recent.parquet --json
    gradcast forecast --model bike --data recent.csv --samples 200 --seed 7
    gradcast forecast --model bike --data recent/ --output forecasts/ --workers 4

The file holds the recent past of every series, and, if the model uses covariates known into the future, rows without
`y` for the horizon. A folder of parquet, or an --output without a file's ending, is forecast part by part into a folder of
parquet: in bounded memory, in several processes, and on from where it ended when it is started again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from training.commands.options import (
    add_model_arguments,
    add_output_arguments,
    add_tracking_argument,
    positive,
    print_json,
)
from training.errors import ConfigurationError, DataError, Problem

WRITERS = (".csv", ".csv.gz", ".parquet")
# A table has a column per future.
MAX_SAMPLES = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast forecast`."""
    add_model_arguments(parser)
    parser.add_argument(
        "--data", required=True, metavar="FILE|DIR", help="recent values: CSV, CSV.gz, parquet, .tsf, or a folder of parquet"
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="set a data.* key, such as data.time_col=date (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE|DIR",
        help=f"where to write ({', '.join(WRITERS)}, or a folder for parquet in parts; default: CSV on stdout)",
    )  # fmt: skip
    parser.add_argument("--workers", type=positive, metavar="N", help="processes, for a folder (default: one per core)")
    parser.add_argument(
        "--part-rows", type=positive, metavar="ROWS", help="rows of the data per file, for a folder (default: 2,000,000)"
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help=f"N sampled futures per series instead of quantiles, at most {MAX_SAMPLES}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampled futures (default: 0)")
    add_tracking_argument(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Forecast every series of the file from its end."""
    if _is_bulk(options):
        return _run_in_bulk(options)
    if options.samples is not None and not 1 <= options.samples <= MAX_SAMPLES:
        message = f"must be from 1 to {MAX_SAMPLES}, but is {options.samples} instead."
        raise ConfigurationError([Problem("samples_invalid", "--samples", message)])
    from training.forecasting import forecast_frame, sample_frame

    bundle = open_bundle(options)
    recent = read_recent(bundle, options)
    if options.samples is None:
        _write(forecast_frame(bundle, recent), options)
    else:
        _write(sample_frame(bundle, recent, options.samples, options.seed), options)
    return 0


def _is_bulk(options: argparse.Namespace) -> bool:
    """Whether the forecast goes into a folder.

    Raises:
        ConfigurationError: If input, output and options do not go together.
    """
    to_folder = options.output is not None and not options.output.name.endswith(WRITERS)
    problems = []
    if not to_folder and Path(options.data).is_dir():
        actual = "absent" if options.output is None else f"the file {options.output}"
        message = f"must be a folder where --data is one, but is {actual} instead."
        problems.append(Problem("output_format", "--output", message, "Give it a name without an ending."))
    if to_folder and options.samples is not None:
        message = "must be absent where --output is a folder."
        problems.append(Problem("output_format", "--samples", message, f"Let --output end in {', '.join(WRITERS)}."))
    for name in ("workers", "part_rows"):
        if not to_folder and getattr(options, name) is not None:
            message = "must be absent unless --output is a folder."
            remedy = f"Give --output a name that does not end in {', '.join(WRITERS)}."
            problems.append(Problem("output_format", f"--{name.replace('_', '-')}", message, remedy))
    if problems:
        raise ConfigurationError(problems)
    return to_folder


def _run_in_bulk(options: argparse.Namespace) -> int:
    from training.bulk.crew import Crew
    from training.loading import loading

    with Crew(options.workers or os.cpu_count() or 1) as crew:  # before what takes long to load is loaded here too
        with loading():
            from training.bulk.run import PART_ROWS, BulkRequest, forecast_in_bulk
            from training.progress import CountProgress

        bundle = open_bundle(options)
        data = read_data_config(bundle, options)
        request = BulkRequest(Path(options.data), options.output, data, options.part_rows or PART_ROWS)
        manifest = forecast_in_bulk(bundle, request, crew, CountProgress(options.quiet))
    if options.json:
        print_json(manifest.model_dump(mode="json"))
    if not options.quiet:
        series, parts = manifest.num_series, len(manifest.parts)
        print(f"{manifest.num_rows} rows for {series} series in {parts} parts in {options.output}", file=sys.stderr)
    if manifest.num_refused:
        refused = [refusal for part in manifest.parts for refusal in part.refused]
        raise DataError([Problem(entry.code, f"series {entry.unique_id!r}", entry.message) for entry in refused])
    return 0


def read_data_config(bundle: Any, options: argparse.Namespace) -> Any:
    """`data.*` with the columns that the model reads."""
    from training.config import load_config

    columns = bundle.manifest.columns
    roles = {name: getattr(columns, name) for name in ("futr_exog", "hist_exog", "stat_exog")}
    return load_config(None, options.overrides, {f"data.{key}": list(names) for key, names in roles.items() if names}).data


def read_recent(bundle: Any, options: argparse.Namespace) -> Any:
    """The data file as a frame, with the columns that the model reads."""
    from training.data.readers import read_frame

    return read_frame(Path(options.data), read_data_config(bundle, options))


def open_bundle(options: argparse.Namespace) -> Any:
    """The bundle directory, or the registered model's bundle, verified."""
    from models.bundle import load_bundle

    if options.bundle is not None:
        return load_bundle(Path(options.bundle))
    from training.config import TrackingConfig
    from training.tracking.download import download_bundle
    from training.tracking.environment import default_cache_directory, resolve_uri
    from training.tracking.registry import resolve

    uri = resolve_uri(TrackingConfig(uri=options.tracking_uri))
    return load_bundle(download_bundle(uri, resolve(uri, options.model), default_cache_directory()))


def _write(forecast: Any, options: argparse.Namespace) -> None:
    if options.output is None and not options.json:
        forecast.to_csv(sys.stdout, index=False)
    elif options.output is not None:
        write = forecast.to_parquet if options.output.name.endswith(".parquet") else forecast.to_csv
        write(options.output, index=False)
    if options.json:
        print_json(forecast.assign(ds=forecast["ds"].astype(str)).to_dict(orient="records"))
    if options.output is not None and not options.quiet:
        count = forecast["unique_id"].nunique()
        print(f"{len(forecast)} rows for {count} series written to {options.output}", file=sys.stderr)
