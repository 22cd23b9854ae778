"""Options that several verbs share, and how they become a configuration."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import TrainingConfig

# As in the configuration, which costs an import that `--help` can do without.
ARCHITECTURES = (
    "linear", "rnn", "gru", "lstm", "mingru", "minlstm", "segrnn", "dilated_rnn", "dilated_gru", "dilated_lstm",
)  # fmt: skip
# Flag -> dotted key it sets.
CONFIG_FLAGS: dict[str, str] = {
    "data": "data.path",
    "architecture": "model.architecture",
    "horizon": "model.horizon",
    "context_length": "model.context_length",
    "max_steps": "fit.max_steps",
    "seed": "fit.seed",
    "test_size": "data.test_size",
    "name": "tracking.model_name",
    "tracking_uri": "tracking.uri",
    "register": "tracking.register",
    "final_fit": "fit.final",
    "warm_start": "fit.warm_start",
}


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config`, `--data`, `--set` and flags for the keys that people change most."""
    parser.add_argument("--config", metavar="FILE.yaml", help="configuration file")
    parser.add_argument("--data", metavar="FILE", help="data file: CSV, CSV.gz, parquet or .tsf")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="set a dotted configuration key, such as optimizer.learning_rate=0.01 (repeatable)",
    )  # fmt: skip
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="network (default: chosen from the data)")
    parser.add_argument("--horizon", type=int, metavar="STEPS", help="steps to forecast (default: one season)")
    parser.add_argument("--context-length", type=int, metavar="STEPS", help="past steps the network sees")
    parser.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps at most (default: 2000)")
    parser.add_argument(
        "--test-size", type=int, metavar="STEPS", help="steps at the end of every series kept for testing"
    )
    parser.add_argument("--seed", type=int, help="seed of everything random (default: 0)")
    parser.add_argument("--name", help="name in the model registry (default: the data file's name)")
    add_tracking_argument(parser)


def add_tracking_argument(parser: argparse.ArgumentParser) -> None:
    """`--tracking-uri`."""
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: MLFLOW_TRACKING_URI, else a local store)"
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """`--json` and `--quiet`."""
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, everything else on stderr")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors and the result")


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        ArgumentTypeError: If it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, but is {text!r} instead.")
    return int(text)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model` or `--bundle`."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--model", metavar="NAME[@ALIAS|/VERSION]", help="registered model (default alias: champion)")
    group.add_argument("--bundle", metavar="DIR", help="bundle directory, no registry needed")


def read_config(options: argparse.Namespace) -> TrainingConfig:
    """A flag beats `--set`, `--set` beats the file, the file beats the default.

    Raises:
        ConfigurationError: With every problem found.
    """
    from training.config import load_config

    flags = {key: getattr(options, name, None) for name, key in CONFIG_FLAGS.items()}
    return load_config(options.config, options.overrides, flags)


def print_json(document: Any) -> None:
    """One JSON document on stdout; numbers that are none become null."""
    print(json.dumps(_without_nan(document), indent=1, default=str))


def say(quiet: bool) -> Any:
    """A function that tells the user one sentence, on stderr."""

    def tell(sentence: str) -> None:
        if not quiet:
            print(sentence, file=sys.stderr, flush=True)

    return tell


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
