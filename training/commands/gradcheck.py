"""Autograd against hand-derived backpropagation through time and finite differences, for every cell.

Exit code 3 if a gradient differs by more than its tolerance.
"""

from __future__ import annotations

import argparse

from training.commands.options import print_json

EXIT_NUMERICAL = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast gradcheck`."""
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and inputs (default: 0)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(options: argparse.Namespace) -> int:
    """Check every architecture and print the errors."""
    from training.gradcheck import format_gradcheck, run_gradcheck

    rows = run_gradcheck(seed=options.seed)
    if options.json:
        print_json([row.to_dict() for row in rows])
    else:
        print(format_gradcheck(rows))
    return 0 if all(row.passed for row in rows) else EXIT_NUMERICAL
