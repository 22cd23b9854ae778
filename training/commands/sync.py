"""Send what a run could not send while the tracking server was away.

Nothing is sent twice, however often this is called.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training.commands.options import add_output_arguments, add_tracking_argument, print_json

EXIT_ENVIRONMENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast sync`."""
    parser.add_argument("--spool", type=Path, metavar="DIR", help="spool directory (default: beside the local store)")
    add_tracking_argument(parser)
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Ship every spool; 1 if something is still unsent."""
    from training.tracking.environment import default_spool_directory
    from training.tracking.sync import sync

    report = sync(options.spool or default_spool_directory(), options.tracking_uri)
    if options.json:
        print_json(report.to_dict())
    else:
        print(report.to_text())
    return EXIT_ENVIRONMENT if report.num_unsent else 0
