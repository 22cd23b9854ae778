"""Why this forecast: which past steps and covariates it comes from.

    gradcast explain --model bike --data recent.csv --html why.html
    gradcast explain --bundle runs/bike/bundle --data recent.csv --series a --horizon-step 24 --output why.parquet

Needs captum: pip install 'gradcast[explain]'. The forecast is taken apart by integrated gradients; the parts add up.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.commands.forecast import open_bundle, read_recent
from training.commands.options import (
    add_model_arguments,
    add_output_arguments,
    add_tracking_argument,
    print_json,
    say,
)
from training.errors import ConfigurationError, Problem

MAX_SERIES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast explain`."""
    add_model_arguments(parser)
    parser.add_argument("--data", required=True, metavar="FILE", help="recent values: CSV, CSV.gz, parquet or .tsf")
    parser.add_argument(
        "--series", action="append", metavar="ID", help=f"series to explain (repeatable; default: the first {MAX_SERIES})"
    )
    parser.add_argument(
        "--horizon-step", type=int, metavar="K", help="step ahead, from 1 (default: the mean over the horizon)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page, self-contained")
    parser.add_argument("--output", type=Path, metavar="FILE.parquet", help="write one row per series and input")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="set a data.* key, such as data.time_col=date (repeatable)",
    )  # fmt: skip
    add_tracking_argument(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Explain, and say how far back the forecast looks."""
    _validate(options)
    from training.explanation import explain
    from training.explanation_report import explanation_to_dict, write_explanation_page, write_explanations
    from training.forecasting import build_request_panel

    bundle = open_bundle(options)
    panel = build_request_panel(bundle.manifest, read_recent(bundle, options))
    tell = say(options.quiet)
    names = options.series
    if names is None and len(panel.ids) > MAX_SERIES:
        names = panel.ids[:MAX_SERIES]
        tell(f"the first {MAX_SERIES} of {len(panel.ids)} series are explained; name others with --series")
    explanations = explain(bundle, panel, names, options.horizon_step)
    model = options.model or Path(options.bundle).name
    if options.output is not None:
        count = write_explanations(options.output, explanations, panel, bundle.manifest)
        tell(f"{count} rows written to {options.output}")
    if options.html is not None:
        options.html.parent.mkdir(parents=True, exist_ok=True)
        options.html.write_text(write_explanation_page(explanations, bundle.manifest, model), encoding="utf-8")
        tell(f"page written to {options.html}")
    documents = [explanation_to_dict(explanation, bundle.manifest) for explanation in explanations]
    if options.json:
        print_json({"model": model, "explanations": documents})
    else:
        _print(documents)
    return 0


def _validate(options: argparse.Namespace) -> None:
    problems = []
    if find_spec("captum") is None:
        message = "needs captum, which is not installed."
        problems.append(Problem("extra_missing", "gradcast explain", message, "pip install 'gradcast[explain]'"))
    if options.output is not None and options.output.suffix != ".parquet":
        message = f"must end in .parquet, but is {options.output.name} instead."
        problems.append(Problem("output_format", "--output", message))
    if problems:
        raise ConfigurationError(problems)


def _print(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        step = document["horizon_step"]
        what = "mean of the horizon" if step is None else f"step {step} ahead"
        print(f"{document['unique_id']}, {what}: {document['forecast']:.5g}, of a flat window {document['flat_forecast']:.5g}")
        print(f"  {document['sentence']}")
        print("  from " + ", ".join(f"{name} {share:.0%}" for name, share in list(document["shares"].items())[:6]))
