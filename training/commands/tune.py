"""Search over a config's space, unhealthy trials pruned.

    gradcast tune --data sales.csv --trials 30
    gradcast tune --config lstm.yaml --space space.yaml --seconds 3600 --register
    gradcast tune --study sales --trials 60            join a study, in this or another process

What the configuration sets stays; what it leaves open is searched, unless --space names what to try. A trial is ended
at a check where its error is behind the others', or where a fault of its gradients is confirmed.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from training.commands.options import add_config_arguments, add_output_arguments, print_json, read_config, say
from training.errors import ConfigurationError, Problem

EXIT_UNHEALTHY, EXIT_STOPPED = 4, 130
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast tune`."""
    add_config_arguments(parser)
    parser.add_argument(
        "--space", type=Path, metavar="FILE.yaml", help="what to try (default: what the configuration leaves open)"
    )
    parser.add_argument("--print-space", action="store_true", help="print the space as YAML and stop")
    parser.add_argument(
        "--study", metavar="NAME", help="name of the study; any number of processes may share one (default: a new one)"
    )
    parser.add_argument(
        "--storage", metavar="URL",
        help="database of the studies (default: GRADCAST_STUDY_STORAGE, else beside the tracking store)",
    )  # fmt: skip
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="trials of the study, over all its processes (default: 20)"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="end this process after so long (default: no limit)")
    parser.add_argument(
        "--register", dest="register_winner", action="store_true",
        help="train the winner once more, with report and bundle, and register it",
    )  # fmt: skip
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Search, and say what was found."""
    _validate(options)
    config = read_config(options)
    if options.print_space:
        from training.tuning.space import default_space, space_to_yaml

        print(space_to_yaml(default_space(config) if options.space is None else _read_space(options.space)), end="")
        return 0
    from training.allocator import keep_freed_memory
    from training.commands.train import StopRequest
    from training.tuning.progress import build_trial_progress
    from training.tuning.search import Budget
    from training.tuning.session import Request, tune
    from training.tuning.storage import resolve_storage

    keep_freed_memory()
    request = Request(
        config, _read_space(options.space), options.study, resolve_storage(options.storage, config.tracking),
        Budget(options.trials, options.seconds), options.register_winner,
    )  # fmt: skip
    result = tune(request, _build_tracker, build_trial_progress(options.quiet), say(options.quiet), StopRequest().requested)
    if options.json:
        print_json(result.to_dict())
    else:
        _print_summary(result)
    if result.status == "stopped":
        print(f"gradcast tune: stopped; continue with --study {result.plan.name}", file=sys.stderr)
        return EXIT_STOPPED
    return EXIT_UNHEALTHY if result.winner_config is None else 0


def _validate(options: argparse.Namespace) -> None:
    problems = []
    if options.trials < 1:
        problems.append(Problem("budget_invalid", "--trials", f"must be at least 1, but is {options.trials} instead."))
    if options.seconds is not None and not options.seconds > 0:
        problems.append(Problem("budget_invalid", "--seconds", f"must be above 0, but is {options.seconds:g} instead."))
    if options.study is not None and not _STUDY_NAME.fullmatch(options.study):
        message = "must be letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit."
        problems.append(Problem("study_name_invalid", "--study", message))
    if problems:
        raise ConfigurationError(problems)


def _read_space(path: Path | None) -> Any:
    from training.tuning.space import read_space

    return None if path is None else read_space(path)


def _build_tracker(config: Any) -> Any:
    """Trials are short: a courier process of its own for each would spend more on its start than the fit takes."""
    from training.tracking.environment import resolve_uri
    from training.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(resolve_uri(config.tracking), required=config.tracking.required, in_process=True)


def _print_summary(result: Any) -> None:
    document = result.to_dict()
    print("\ntrials   " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in document["trials"].items()))
    winner = document["winner"]
    if winner is None:
        print("winner   none: no trial was healthy; the report says what was wrong with each")
    else:
        print(f"winner   trial {winner['trial']}, {winner['verdict']}, {winner['metric'].upper()} {winner['val_error']:.4g}")
        print("         " + " ".join(f"{key}={value}" for key, value in winner["settings"].items()))
        baselines = ", ".join(f"{name} {error:.4g}" for name, error in winner["baseline_error"].items())
        print(f"beside   {baselines}")
        print(f"run it   gradcast train --config {winner['config_path']}")
    if document["importance"]:
        print("mattered " + ", ".join(f"{key} {share:.0%}" for key, share in document["importance"].items()))
    if document["model"] is not None:
        print(f"registered {document['model']['uri']} ({', '.join(document['model']['aliases']) or 'no alias'})")
    print(f"report   {document['report']}")
