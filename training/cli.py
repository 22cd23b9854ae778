"""Arguments to exit code. torch, pandas and mlflow are imported by the verbs that need them, so `--help` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from models.errors import GradcastError

# Verb -> what `gradcast --help` says about it. Its module is training.commands.<verb>, with _ for -.
VERBS: dict[str, str] = {
    "train": "fit one model, log it, register it",
    "preflight": "no training: how far the gradient reaches at the start, how far the data needs it to, what to change",
    "diagnose": "verdict, evidence and remedies of a run, running or finished",
    "forecast": "batch forecast from a file with a registered model or a bundle directory",
    "explain": "which past steps and covariates a forecast comes from",
    "backtest": "rolling-origin evaluation of a config or a registered model, beside the baselines",
    "tune": "search over a config's space, unhealthy trials pruned",
    "lr-find": "a short test over learning rates, its curve and a suggestion; nothing is kept",
    "validate": "audit a data file: fixes are offered, not made",
    "models": "list, show, promote or roll back registered models",
    "gradcheck": "autograd against hand-derived backpropagation and finite differences",
    "serve": "the HTTP service",
    "keys": "create, list or revoke keys of the HTTP service",
    "worker": "runs the training jobs that the service queued",
    "up": "the HTTP service and the MLflow dashboard on this machine",
    "demo": "train on the shipped real data, register, serve, ask for a forecast, print it",
    "sync": "send what a run could not send while the tracking server was away",
}

# The one table of exit codes: by the stable code of the error.
EXIT_DONE, EXIT_ENVIRONMENT, EXIT_INPUT, EXIT_NUMERICAL, EXIT_UNHEALTHY, EXIT_STOPPED = 0, 1, 2, 3, 4, 130
EXIT_CODES: dict[str, int] = {
    "storage_unwritable": EXIT_ENVIRONMENT,
    "tracking_unavailable": EXIT_ENVIRONMENT,
    "study_unavailable": EXIT_ENVIRONMENT,
    "worker_lost": EXIT_ENVIRONMENT,
    "cluster_unfit": EXIT_ENVIRONMENT,
    "non_finite": EXIT_NUMERICAL,
}


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the named verb knows its options, None = every verb does.

    Importing the modules of ten verbs to run one, or to print the list of them, would be felt.
    """
    parser = argparse.ArgumentParser(
        prog="gradcast",
        description="Train recurrent forecasters whose gradients you can see, and serve the healthy ones.",
        epilog="Exit codes: 0 done; 1 environment; 2 configuration or data; 3 numerical failure; "
        "4 unhealthy gradients under --fail-on unhealthy; 130 stopped, resumable.",
    )
    parser.add_argument("--version", dest="show_version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, summary in VERBS.items():
        if verb not in (None, name):
            verbs.add_parser(name, help=summary)
            continue
        module = import_module(f"training.commands.{name.replace('-', '_')}")
        description = (module.__doc__ or summary).strip()
        formatter = argparse.RawDescriptionHelpFormatter
        subparser = verbs.add_parser(name, help=summary, description=description, formatter_class=formatter)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        arguments: Words after `gradcast`; None = those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser(next((word for word in words if not word.startswith("-")), ""))
    options = parser.parse_args(words)
    if options.show_version:
        print(_version())
        return EXIT_DONE
    if options.verb is None:
        parser.print_help()
        return EXIT_INPUT
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except GradcastError as error:
        print(f"gradcast {options.verb}: {error}", file=sys.stderr)
        return EXIT_CODES.get(error.code, EXIT_INPUT)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does; do not complain a second time at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        print(f"gradcast {options.verb}: {error}", file=sys.stderr)
        return EXIT_ENVIRONMENT


def _version() -> str:
    from importlib.metadata import version

    return version("gradcast")
