"""Batch forecast from a file with a registered model or a bundle directory.

    gradcast forecast --model bike --data recent.csv --output forecast.csv
    gradcast forecast --bundle runs/bike/bundle --data recent.parquet --json
    gradcast forecast --model bike --data recent.csv --samples 200 --seed 7

The file holds the recent past of every series, and, if the model uses covariates known into the future, rows without
`y` for the horizon.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from training.commands.options import (
    add_model_arguments,
    add_output_arguments,
    add_tracking_argument,
    print_json,
)
from training.errors import ConfigurationError, Problem

WRITERS = (".csv", ".csv.gz", ".parquet")
# A table has a column per future.
MAX_SAMPLES = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast forecast`."""
    add_model_arguments(parser)
    parser.add_argument("--data", required=True, metavar="FILE", help="recent values: CSV, CSV.gz, parquet or .tsf")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="set a data.* key, such as data.time_col=date (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"where to write ({', '.join(WRITERS)}; default: CSV on stdout)"
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help=f"N sampled futures per series instead of quantiles, at most {MAX_SAMPLES}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampled futures (default: 0)")
    add_tracking_argument(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Forecast every series of the file from its end."""
    if options.output is not None and not options.output.name.endswith(WRITERS):
        message = f"must end in {', '.join(WRITERS)}, but is {options.output.name} instead."
        raise ConfigurationError([Problem("output_format", "--output", message)])
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


def read_recent(bundle: Any, options: argparse.Namespace) -> Any:
    """The data file as a frame, with the columns that the model reads."""
    from training.config import load_config
    from training.data.readers import read_frame

    columns = bundle.manifest.columns
    roles = {name: getattr(columns, name) for name in ("futr_exog", "hist_exog", "stat_exog")}
    config = load_config(None, options.overrides, {f"data.{key}": list(names) for key, names in roles.items() if names})
    return read_frame(Path(options.data), config.data)


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
    if options.json:
        print_json(forecast.assign(ds=forecast["ds"].astype(str)).to_dict(orient="records"))
    elif options.output is None:
        forecast.to_csv(sys.stdout, index=False)
    elif options.output.name.endswith(".parquet"):
        forecast.to_parquet(options.output, index=False)
    else:
        forecast.to_csv(options.output, index=False)
    if options.output is not None and not options.quiet:
        count = forecast["unique_id"].nunique()
        print(f"{len(forecast)} rows for {count} series written to {options.output}", file=sys.stderr)
