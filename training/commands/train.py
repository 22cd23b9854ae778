"""Fit one model, log it, register it.

    gradcast train --data sales.csv
    gradcast train --config lstm.yaml --set optimizer.learning_rate=0.01 --json
    gradcast train --resume                     continue the newest unfinished run
    gradcast train --data sales.csv --workers 4 four processes share every batch

Everything left open is chosen from the data and said aloud.
"""

from __future__ import annotations

import argparse
import signal
import sys
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
        "--launcher", choices=("local", "torchrun"), default="local",
        help="who starts them: this command on this machine, or torchrun on any number (default: local)",
    )  # fmt: skip
    parser.add_argument("--fail-on", choices=("unhealthy",), help="exit with 4 if the verdict is not healthy")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration as YAML and stop")
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Train, and say how it went; a process that torchrun started and that does not lead only works along."""
    from training.allocator import keep_freed_memory

    keep_freed_memory()
    if options.print_config:
        return _print_config(read_config(options))
    from training.errors import WorkerLostError
    from training.following import follow
    from training.launching import join_team, open_team

    with join_team() if options.launcher == "torchrun" else open_team(options.workers) as team:
        if team.is_leader:
            return _lead(options, team)
        try:
            follow(team)
        except WorkerLostError:
            return 1  # the leader says which, or it ended and has said why
        return 0


def _lead(options: argparse.Namespace, team: Any) -> int:
    from training.loop import FitInterruptedError
    from training.mending import train_and_heal
    from training.progress import build_progress
    from training.run_directory import RunDirectory

    config, resume = read_config(options), None
    if options.resume is not None:
        resume = RunDirectory.open(None if options.resume == NEWEST else Path(options.resume))
        config = with_store(resume.config(), config.tracking.uri)
    tell = say(options.quiet)
    stop = StopRequest()
    try:
        result = train_and_heal(
            config, build_tracker(config), build_tracker, build_progress(options.quiet), tell, options.output, resume,
            stop.requested, team,
        )  # fmt: skip
    except FitInterruptedError as stopped:
        way_on = "before it began" if stopped.directory is None else f"continue: gradcast train --resume {stopped.directory}"
        print(f"gradcast train: stopped; {way_on}", file=sys.stderr)
        return EXIT_STOPPED
    if options.json:
        print_json(result.to_dict())
    else:
        print_summary(result)
    if result.num_unsent:
        print(f"{result.num_unsent} events unsent, run gradcast sync", file=sys.stderr)
    return EXIT_UNHEALTHY if options.fail_on and result.verdict.verdict != "healthy" else 0


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


def print_summary(result: Any) -> None:
    """Backtest beside the baselines, verdict, and where everything is."""
    from training.backtest_text import format_backtest

    for part, backtest in result.backtests.items():
        heading = "validation" if part == "val" else "test"
        print(f"\n{heading}\n{format_backtest(backtest, model_name=result.prepared.config.model.architecture)}")
    print(f"\ngradient verdict: {result.verdict.verdict}")
    for finding in result.verdict.findings:
        print(f"  {finding.severity}: {finding.message}")
        for remedy in finding.remedies:
            print(f"    remedy: {remedy.why}: " + " ".join(f"--set {key}={value}" for key, value in remedy.set.items()))
    for check in result.checks:
        print(f"check: {check}")
    if result.model is not None:
        aliases = f" ({', '.join(result.model.aliases)})" if result.model.aliases else " (no alias: not healthy)"
        print(f"registered {result.model.uri}{aliases}")
    print(f"bundle     {result.directory / 'bundle'}")


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
