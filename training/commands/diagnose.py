"""Verdict, evidence and remedies of a run, running or finished, or of two runs side by side.

    gradcast diagnose                           the newest run under runs/
    gradcast diagnose runs/bike --html report.html
    gradcast diagnose runs/a runs/b             what was set differently, and which forecasts better
    gradcast diagnose models:/bike@champion     the run behind a registered model
    gradcast diagnose --replay runs/bike/forensics

A run is its directory, an MLflow run id, or a registered model. Of a run that has not ended, the verdict is drawn from
its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.commands.options import add_output_arguments, add_tracking_argument, print_json
from training.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from training.report.review import RunReview

EXIT_UNHEALTHY = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast diagnose`."""
    parser.add_argument(
        "runs", nargs="*", metavar="RUN",
        help="run directory, MLflow run id, or models:/NAME@ALIAS; two are compared (default: the newest under runs/)",
    )  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report, one self-contained page")
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="DIR",
        help="repeat the step that a run stopped at, from its forensics/ directory",
    )
    parser.add_argument("--fail-on", choices=("unhealthy",), help="exit with 4 if a verdict is not healthy")
    add_tracking_argument(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Say what is wrong with a run, and what to do about it."""
    if options.replay is not None:
        return _replay(options)
    if len(options.runs) > 2:
        message = f"must be one run or two to compare, but are {len(options.runs)} instead."
        raise ConfigurationError([Problem("too_many_runs", "RUN", message)])
    from training.report.review import read_run

    references = options.runs or [None]
    reviews = [read_run(locate_run(reference, options.tracking_uri)) for reference in references]
    if options.html is not None:
        _write_html(options, reviews)
    if options.json:
        _print_json(reviews)
    else:
        _print(reviews)
    is_healthy = all(review.verdict.verdict == "healthy" for review in reviews)
    return EXIT_UNHEALTHY if options.fail_on and not is_healthy else 0


def locate_run(reference: str | None, tracking_uri: str | None) -> Path | None:
    """The run's directory, fetched if it is a recorded run; None = the newest.

    Args:
        reference: As the user wrote it.
        tracking_uri: Where recorded runs are; None = as configured.
    """
    if reference is None or Path(reference).exists():
        return None if reference is None else Path(reference)
    from training.tracking.run_files import download_run, is_run_reference

    if not is_run_reference(reference):
        return Path(reference)
    from training.config import TrackingConfig
    from training.tracking.environment import default_cache_directory, resolve_uri

    return download_run(resolve_uri(TrackingConfig(uri=tracking_uri)), reference, default_cache_directory())


def _print(reviews: list[RunReview]) -> None:
    from rich.console import Console

    from training.report.terminal import print_comparison, print_review

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=110)
    if len(reviews) == 1:
        print_review(console, reviews[0])
    else:
        print_comparison(console, *reviews)


def _print_json(reviews: list[RunReview]) -> None:
    from training.report.comparison import comparison_to_dict

    print_json(reviews[0].to_dict() if len(reviews) == 1 else comparison_to_dict(*reviews))


def _write_html(options: argparse.Namespace, reviews: list[RunReview]) -> None:
    from training.report.comparison import write_comparison
    from training.report.document import write_report

    page = write_report(reviews[0]) if len(reviews) == 1 else write_comparison(*reviews)
    options.html.parent.mkdir(parents=True, exist_ok=True)
    options.html.write_text(page, encoding="utf-8")
    if not options.quiet:
        print(f"report written to {options.html}", file=sys.stderr)


def _replay(options: argparse.Namespace) -> int:
    from training.replay import describe_replay, replay

    result = replay(options.replay)
    if options.json:
        print_json(result.to_dict())
    else:
        print(describe_replay(result))
    return 0
