"""Train, and where the run is faulty and the user wants it mended, run the remedies as child runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from training.checkpoint import BEST
from training.choices import model_name
from training.config import TrainingConfig, build_config
from training.errors import NumericalError
from training.gradients.verdict import Remedy
from training.healing import Attempt, Budget, Healing, Plan, heal
from training.pipeline import Parent, Say, TrainingResult, train
from training.progress import FitProgress
from training.reporting import describe_run, read_verdict
from training.run_directory import RunDirectory, default_path
from training.team import ALONE, Team
from training.tracking.tracker import Tracker

NewTracker = Callable[[TrainingConfig], Tracker]
NO_REMEDY = Remedy(why="the run as asked for")
# Only these change nothing about the network, so that its weights can be kept.
KEEPS_NETWORK = ("optimizer.", "fit.")


def train_and_heal(
    config: TrainingConfig,
    tracker: Tracker,
    new_tracker: NewTracker,
    progress: FitProgress,
    say: Say,
    output: Path | None = None,
    resume: RunDirectory | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    team: Team = ALONE,
) -> TrainingResult:
    """`pipeline.train`; with `gradients.on_fault = heal` a faulty run is followed by child runs that try to mend it.

    Args:
        config: As the user wrote it, or the run's own when resuming.
        tracker: Where the run is recorded.
        new_tracker: Makes the tracker of a child run.
        progress: What the user sees of every fit.
        say: Told every choice and result in a sentence.
        output: Directory of the run; None = a new one under `runs/`.
        resume: A run to continue.
        stop_requested: Asked after every step.
        team: The processes that fit every run together; this one leads.

    Returns:
        The result of the run that was kept, with the path that led to it.

    Raises:
        GradcastError: Whatever went wrong, by kind.
        FitInterruptedError: If the user stopped a fit.
    """
    if config.gradients.on_fault != "heal":
        return train(config, tracker, progress, say, output, resume, stop_requested, team=team)
    path = resume.path if resume else output or default_path(config.tracking.model_name or model_name(config.data.path))
    failure: NumericalError | None = None
    results: dict[int, TrainingResult] = {}
    started = time.monotonic()
    try:
        results[0] = train(config, tracker, progress, say, path, resume, stop_requested, team=team)
        first = _attempt({}, NO_REMEDY, "", results[0], time.monotonic() - started)
    except NumericalError as error:
        failure = error
        say(str(error))
        first = _failed({}, NO_REMEDY, "", time.monotonic() - started, path)
    if first.verdict.verdict in ("healthy", "inconclusive"):
        return results[0]
    run = RunDirectory(path)
    asked = run.config()

    def try_plan(plan: Plan) -> Attempt:
        number = len(list(run.attempts.glob("*"))) + 1
        child = child_config(asked, plan.settings, number)
        place = run.attempts / str(number)
        parent = Parent(tracker.run_id, run.state()["job_id"], _weights_to_keep(plan))
        began = time.monotonic()
        try:
            result = train(child, new_tracker(child), progress, say, place, None, stop_requested, parent, team)
        except NumericalError:
            return _failed(plan.settings, plan.remedy, plan.rule, time.monotonic() - began, place)
        results[number] = result
        return _attempt(plan.settings, plan.remedy, plan.rule, result, time.monotonic() - began)

    gradients = asked.gradients
    healing = heal(first, try_plan, Budget(gradients.heal_attempts, gradients.heal_seconds), say)
    kept = next((result for result in results.values() if result.directory == healing.best.directory), None)
    _report(healing, results.get(0) or kept, new_tracker, run)
    if kept is None:
        assert failure is not None
        raise failure
    kept.healing = healing
    return kept


def child_config(config: TrainingConfig, settings: dict[str, object], number: int) -> TrainingConfig:
    """The configuration with a remedy applied; a child ends early where it is hopeless, and is not healed itself."""
    tree = config.model_dump(by_alias=True)
    name = tree["tracking"]["run_name"] or f"{config.model.network} {config.tracking.model_name}"
    changes = dict(settings) | {"gradients.on_fault": "stop", "tracking.run_name": f"{name}, attempt {number}"}
    for key, value in changes.items():
        section, field = key.split(".")
        tree[section][field] = value
    return build_config(tree)


def _weights_to_keep(plan: Plan) -> Path | None:
    keeps = plan.remedy.restart == "checkpoint" and all(key.startswith(KEEPS_NETWORK) for key in plan.remedy.set)
    if not keeps or plan.base.directory is None:
        return None
    checkpoint = RunDirectory(plan.base.directory).checkpoints / BEST
    return checkpoint if checkpoint.exists() else None


def _attempt(settings: dict[str, object], remedy: Remedy, rule: str, result: TrainingResult, seconds: float) -> Attempt:
    outcome = result.evidence.outcome
    error = outcome.val_error if outcome is not None else math.inf
    loss = result.state.best_val_loss
    return Attempt(settings, remedy, rule, result.verdict, loss, error, seconds, result.run_id, result.directory)


def _failed(
    settings: dict[str, object], remedy: Remedy, rule: str, seconds: float, directory: Path
) -> Attempt:
    verdict = read_verdict(directory)
    return Attempt(settings, remedy, rule, verdict, math.inf, math.inf, seconds, None, directory)


def _report(healing: Healing, described: TrainingResult | None, new_tracker: NewTracker, run: RunDirectory) -> None:
    """Tell the parent run how it ended; it is opened again by the identity of its directory."""
    run.write_state(healing=healing.to_dict())
    if described is None:
        return
    config = described.prepared.config
    tracker = new_tracker(config)
    tracker.start(describe_run(described.prepared, run))
    best = healing.best
    tracker.log_tags({"heal.healed": str(healing.is_healed).lower(), "heal.attempts": str(len(healing.attempts) - 1)})
    if best.run_id is not None and healing.kept:
        tracker.log_tags({"heal.kept_run": best.run_id})
    own = described.note if described.directory == run.path else ""
    tracker.log_note(f"# Healing\n\n{healing.to_markdown()}\n\n{own}")
    tracker.finish("FINISHED")
