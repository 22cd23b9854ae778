"""Fit one model, log it, register it.

    gradcast train --data sales.csv
    gradcast train --config lstm.yaml --set optimizer.learning_rate=0.01 --json
    gradcast train --resume                     continue the newest unfinished run
    gradcast train --data sales.csv --workers 4 four processes share every batch
    gradcast train --data sales.csv --workers 4 --launcher ray    the same on a Ray cluster

Everything left open is chosen from the data and said aloud.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from training.commands.options import add_config_arguments, add_output_arguments, positive, print_json, read_config, say

EXIT_UNHEALTHY, EXIT_STOPPED = 4, 130
NEWEST = "newest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast train`."""
    add_config_arguments(parser)
    parser.add_argument(
        "--no-register", dest="register", action="store_const", const=False, help="do not register the model"
    )
    parser.add_argument(
        "--warm-start", metavar="NAME[@ALIAS|/VERSION]", help="start from the weights of a registered version"
    )
    parser.add_argument(
        "--final-fit", action="store_const", const=True,
        help="after selection, fit once more on all rows for the chosen steps, and keep that network",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="directory of the run (default: a new one under runs/)"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="DIR",
        help="continue a run from its last checkpoint (default: the newest)",
    )
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N",
        help="processes that share every batch, one thread each (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--launcher", choices=("local", "torchrun", "ray"), default="local",
        help="who starts them: this command on this machine, torchrun on any number, or Ray, on the cluster that RAY_ADDRESS "
        "names or on this machine, which replaces lost workers (default: local)",
    )  # fmt: skip
    parser.add_argument(
        "--min-workers", type=positive, metavar="N",
        help="with --launcher ray: train with as few while the cluster has no room for more (default: --workers)",
    )  # fmt: skip
    parser.add_argument("--fail-on", choices=("unhealthy",), help="exit with 4 if the verdict is not healthy")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration as YAML and stop")
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Train, and say how it went; a process that torchrun started and that does not lead only works along."""
    if options.print_config:
        return _print_config(read_config(options))
    if options.min_workers is not None:
        _require_ray(options)
    if options.launcher == "ray":
        return _report(options, _train_on_ray)
    from training.allocator import keep_freed_memory
    from training.errors import WorkerLostError
    from training.following import follow
    from training.launching import join_team, open_team

    keep_freed_memory()
    with join_team() if options.launcher == "torchrun" else open_team(options.workers) as team:
        if team.is_leader:
            return _report(options, partial(_lead, team=team))
        # Ctrl-C on a terminal, and torchrun's end, reach every process; the leader decides at which step all stop.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        try:
            follow(team)
        except WorkerLostError:
            return 1  # the leader says which, or it ended and has said why
        return 0


def _lead(options: argparse.Namespace, config: Any, resume: Any, team: Any) -> Any:
    from training.mending import train_and_heal
    from training.outcome import Outcome
    from training.progress import build_progress

    stop = StopRequest()
    return Outcome.of(train_and_heal(
        config, build_tracker(config), build_tracker, build_progress(options.quiet), say(options.quiet), options.output,
        resume, stop.requested, team,
    ))  # fmt: skip


def _train_on_ray(options: argparse.Namespace, config: Any, resume: Any) -> Any:
    from training.extras import require_extra

    require_extra("ray", "ray", "--launcher ray")
    from training.choices import model_name
    from training.on_ray.environment import prepare_environment

    prepare_environment()
    from training.on_ray.launch import train_on_ray
    from training.progress import build_progress
    from training.run_directory import RunDirectory, default_path

    run = resume or RunDirectory(options.output or default_path(config.tracking.model_name or model_name(config.data.path)))
    if resume is None:
        run.require_new()
    num_workers = (min(options.min_workers or options.workers, options.workers), options.workers)
    return train_on_ray(
        config, build_tracker, num_workers, build_progress(options.quiet), say(options.quiet), run,
        lambda: StopRequest().requested,
    )  # fmt: skip


def _require_ray(options: argparse.Namespace) -> None:
    from training.errors import ConfigurationError, Problem

    if options.launcher != "ray":
        message = f"must be given with --launcher ray, but is with {options.launcher} instead."
        raise ConfigurationError([Problem("config_conflict", "--min-workers", message, "Leave it out.")])
    if options.min_workers > options.workers:
        message = f"must be at most --workers, but is {options.min_workers} for {options.workers} instead."
        raise ConfigurationError([Problem("config_conflict", "--min-workers", message, "Lower it, or raise --workers.")])


def _report(options: argparse.Namespace, train: Any) -> int:
    """Train in one way or another, print what there is to say, and return the exit code."""
    from training.loop import FitInterruptedError
    from training.run_directory import RunDirectory

    config, resume = read_config(options), None
    if options.resume is not None:
        resume = RunDirectory.open(None if options.resume == NEWEST else Path(options.resume))
        config = with_store(resume.config(), config.tracking.uri)
    try:
        outcome = train(options, config, resume)
    except FitInterruptedError as stopped:
        way_on = "before it began" if stopped.directory is None else f"continue: gradcast train --resume {stopped.directory}"
        print(f"gradcast train: stopped; {way_on}", file=sys.stderr)
        return EXIT_STOPPED
    if options.json:
        print_json(outcome.document)
    else:
        print(outcome.summary)
    if outcome.num_unsent:
        print(f"{outcome.num_unsent} events unsent, run gradcast sync", file=sys.stderr)
    return EXIT_UNHEALTHY if options.fail_on and outcome.verdict != "healthy" else 0


def with_store(config: Any, uri: str | None) -> Any:
    """The configuration of a run to resume, with the credentials of its store, which are given anew and never written down."""
    from training.tracking.environment import redact, with_credentials

    kept = config.tracking.uri
    if kept is None:
        return config
    known = uri if uri is not None and redact(uri).rstrip("/") == kept.rstrip("/") else with_credentials(kept)
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": known})})


class StopRequest:
    """SIGINT and SIGTERM end the fit after the current step, with a checkpoint; a second SIGINT ends it at once."""

    def __init__(self) -> None:
        self._requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def requested(self) -> bool:
        """Whether the user wants the fit to stop."""
        return self._requested

    def _handle(self, _number: int, _frame: Any) -> None:
        self._requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping after this step ...", file=sys.stderr, flush=True)


def build_tracker(config: Any) -> Any:
    """The MLflow tracker behind its spool."""
    from training.tracking.environment import resolve_uri
    from training.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(resolve_uri(config.tracking), required=config.tracking.required)


def _print_config(config: Any) -> int:
    if config.data.path is None:
        print(config.to_yaml(), end="")
        return 0
    from training.choices import resolve_choices
    from training.data.panel import load_panel
    from training.warm_start import open_warm_start

    columns = None
    if config.fit.warm_start is not None:
        config, bundle = open_warm_start(config)
        columns = bundle.manifest.columns
    panel = load_panel(config.data, horizon=config.model.horizon or 0, columns=columns)
    resolved, notes, _need = resolve_choices(config, panel)
    for note in notes:
        print(note, file=sys.stderr)
    print(resolved.to_yaml(), end="")
    return 0
