"""Audit a data file, or a folder of parquet: rows, gaps, duplicates, frequency and the problems of every series.

    gradcast validate sales.csv
    gradcast validate --data sales.csv --set data.time_col=date --json
    gradcast validate --data sales/             a folder of parquet, partitions included

Fixes are offered, not made. Exit code 2 if something must be fixed before training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training.commands.options import add_output_arguments, print_json, read_config
from training.errors import ConfigurationError, Problem

EXIT_INPUT = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast validate`."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="data file or folder of parquet (or --data FILE)")
    parser.add_argument("--data", metavar="FILE", help="data file: CSV, CSV.gz, parquet or .tsf; or a folder of parquet")
    parser.add_argument("--config", metavar="FILE.yaml", help="configuration file with the data section")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a data.* key (repeatable)",
    )
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the audit."""
    options.data = options.data or options.file
    config = read_config(options)
    if config.data.path is None:
        raise ConfigurationError([Problem("config_missing", "data.path", "must name a data file.", "Give FILE.")])
    from training.data.audit import audit_file

    audit = audit_file(Path(config.data.path), config.data)
    if options.json:
        print_json(audit.to_dict())
    else:
        print(audit.to_text())
    return EXIT_INPUT if any(problem.severity == "error" for problem in audit.problems) else 0
