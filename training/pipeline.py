"""The composition root: the only place that builds objects and puts them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.bundle import save_bundle
from models.config import HeadName, usual_scaler
from training.backtest import BacktestResult
from training.checkpoint import LAST, read_checkpoint, restore_network
from training.config import TrainingConfig
from training.data.windows import TrainingWindows, validation_cutoffs
from training.errors import NumericalError
from training.evaluation import baseline_metrics, finite_metrics
from training.gradients.evidence import Evidence
from training.gradients.schedule import logging_schedule, never
from training.gradients.verdict import Finding, Remedy, Verdict
from training.healing import Healing
from training.judgement import Judge, build_monitor, build_probe, build_watch
from training.loop import Fit, FitData, FitInterruptedError, FitState
from training.losses import build_loss
from training.model_card import write_model_card
from training.preparation import DTYPES, Prepared, prepare, series_scale_floor
from training.progress import SILENT_PROGRESS, FitProgress
from training.report.words import Unit
from training.reporting import (
    describe_bundle,
    describe_run,
    extra_files,
    gradcast_version,
    log_outcome,
    verdict_tags,
    write_gradients,
    write_reports,
)
from training.run_directory import RunDirectory
from training.tracking.tracker import NOOP_TRACKER, RegisteredModel, RegistrationRequest, Tracker

MAX_VALIDATION_WINDOWS = 1024

Say = Callable[[str], None]


def _keep_quiet(_sentence: str) -> None:
    """Tell nobody."""


@dataclass
class TrainingResult:
    """What `gradcast train` reports.

    Attributes:
        run_id: Identity in the tracking store.
        directory: The run's directory.
        prepared: Data and configuration.
        state: Losses, norms and timing.
        backtests: Validation, and test if there is one.
        verdict: What the gradients and the outcome say.
        evidence: What it rests on.
        note: The run's description.
        model: The registered version, if it was registered.
        num_unsent: Events that wait for `gradcast sync`.
    """

    run_id: str | None
    directory: Path
    prepared: Prepared
    state: FitState
    backtests: dict[str, BacktestResult]
    verdict: Verdict
    evidence: Evidence
    note: str
    model: RegisteredModel | None = None
    num_unsent: int = 0
    healing: Healing | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `train --json`."""
        model = self.model
        readings = self.state.readings
        _, speeds = readings.series("speed/windows_per_second")
        return {
            "run_id": self.run_id,
            "status": "finished",
            "bundle": str(self.directory / "bundle"),
            "model": None
            if model is None
            else {"name": model.name, "version": model.version, "uri": model.uri, "aliases": list(model.aliases)},
            "metrics": finite_metrics(self.backtests),
            "baselines": baseline_metrics(self.backtests),
            "gradients": self.verdict.model_dump(mode="json"),
            "timing": {
                "prepare_seconds": round(self.prepared.seconds, 3),
                "fit_seconds": round(self.state.fit_seconds, 3),
                "windows_per_second": round(speeds[-1], 1) if speeds else 0.0,
                "steps": self.state.step,
            },
            "unsent_events": self.num_unsent,
        } | ({} if self.healing is None else {"healing": self.healing.to_dict()})


@dataclass(frozen=True)
class Parent:
    """The run that a child run is meant to mend.

    Attributes:
        run_id: In the tracking store; None if it is not known.
        job_id: Of its directory.
        checkpoint: Weights to go on from; None = from scratch.
    """

    run_id: str | None
    job_id: str
    checkpoint: Path | None = None

    def tags(self) -> dict[str, str]:
        """What nests the child below its parent in the dashboard."""
        nested = {} if self.run_id is None else {"mlflow.parentRunId": self.run_id}
        return nested | {"gradcast.parent_job": self.job_id}


def train(
    config: TrainingConfig,
    tracker: Tracker = NOOP_TRACKER,
    progress: FitProgress = SILENT_PROGRESS,
    say: Say = _keep_quiet,
    output: Path | None = None,
    resume: RunDirectory | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    parent: Parent | None = None,
) -> TrainingResult:
    """Fit one model, judge it, log it, register it.

    Args:
        config: As the user wrote it, or the run's own when resuming.
        tracker: Where the run is recorded; make it early, it opens its store in the background.
        progress: What the user sees of the fit.
        say: Told every choice and result in a sentence.
        output: Directory of the run; None = a new one under `runs/`.
        resume: A run to continue.
        stop_requested: Asked after every step.
        parent: The run this one is meant to mend; such a run is registered only if it is healthy.

    Returns:
        Everything there is to report.

    Raises:
        GradcastError: Whatever went wrong, by kind.
        FitInterruptedError: If the user stopped the fit.
    """
    prepared = prepare(config)
    config = prepared.config
    for note in prepared.notes:
        say(note)
    run = resume or RunDirectory.create(config, output)
    say(f"run directory {run.path}")
    tracker.start(describe_run(prepared, run, parent.tags() if parent else {}))
    if parent is not None and parent.checkpoint is not None:
        restore_network(prepared.forecaster, read_checkpoint(parent.checkpoint)[0], parent.checkpoint)
    try:
        judged = fit_and_judge(prepared, run, tracker, progress, say, stop_requested, resume is not None)
        result = _publish(prepared, run, judged, tracker)
        if config.tracking.register_model and (parent is None or result.verdict.verdict == "healthy"):
            result.model = _register(result, tracker)
    except FitInterruptedError:
        run.write_state(status="stopped")
        tracker.finish("KILLED")
        raise
    except BaseException as error:
        run.write_state(status="failed")
        _log_failure(tracker, error)
        raise
    result.num_unsent = tracker.finish("FINISHED")
    run.write_state(status="finished", run_id=result.run_id)
    return result


@dataclass(frozen=True)
class Judged:
    """A finished fit, judged and not yet written down.

    Attributes:
        state: Losses, norms and timing.
        backtests: Validation, and test if there is one.
        verdict: What the gradients and the outcome say.
        evidence: What it rests on.
    """

    state: FitState
    backtests: dict[str, BacktestResult]
    verdict: Verdict
    evidence: Evidence


def fit_and_judge(
    prepared: Prepared,
    run: RunDirectory,
    tracker: Tracker = NOOP_TRACKER,
    progress: FitProgress = SILENT_PROGRESS,
    say: Say = _keep_quiet,
    stop_requested: Callable[[], bool] = lambda: False,
    resume: bool = False,
) -> Judged:
    """The part of a run that computes; only checkpoints and what the fit is judged by are written.

    Args:
        prepared: Data and network.
        run: Where checkpoints go.
        tracker: Where metrics go.
        progress: What the user sees of the fit.
        say: Told how the fit ended.
        stop_requested: Asked after every step.
        resume: Whether to go on from the last checkpoint, if there is one.

    Returns:
        The fit with its verdict; the network holds the best weights.

    Raises:
        NumericalError: If a loss or gradient is not finite.
        FitInterruptedError: If the user stopped the fit.
    """
    fit, judge = build_fit(prepared, run, tracker, progress, stop_requested)
    if resume and (run.checkpoints / LAST).exists():
        fit.resume()
        say(f"resumed at step {fit.state.step}")
    write_gradients(run, judge.gather(fit.state, None))
    try:
        state = fit.run()
    except NumericalError as error:
        verdict = non_finite_verdict(error, prepared.config.model.head)
        write_gradients(run, judge.gather(fit.state, None), fit.state.readings, verdict)
        raise
    say(f"fit ended at step {state.step}; best validation loss {state.best_val_loss:.4f} at step {state.best_step}")
    backtests = judge.evaluation.run_all()
    return Judged(state, backtests, *judge.judge(state, backtests))


def _publish(prepared: Prepared, run: RunDirectory, judged: Judged, tracker: Tracker) -> TrainingResult:
    """Write bundle, reports and figures, and hand them to the tracker."""
    state, backtests, verdict = judged.state, judged.backtests, judged.verdict
    manifest = describe_bundle(prepared, backtests, verdict)
    note = write_model_card(manifest, verdict, prepared.config.tracking.model_name or "model", prepared.notes)
    save_bundle(run.bundle, prepared.forecaster, manifest, extra_files(prepared))
    write_reports(prepared, run, state, backtests, verdict, judged.evidence)
    log_outcome(tracker, run, state, backtests, verdict, note, Unit.of(prepared.config.data.freq))
    return TrainingResult(tracker.run_id, run.path, prepared, state, backtests, verdict, judged.evidence, note)


def _register(result: TrainingResult, tracker: Tracker) -> RegisteredModel | None:
    tracking = result.prepared.config.tracking
    tags = verdict_tags(result.verdict) | {
        "gradcast.version": gradcast_version(),
        "data.fingerprint": result.prepared.panel.fingerprint,
    }
    healthy = result.verdict.verdict == "healthy"
    bundle = RunDirectory(result.directory).bundle
    name = tracking.model_name or "model"
    return tracker.register(
        RegistrationRequest(name, bundle, alias=tracking.alias, healthy=healthy, tags=tags, note=result.note)
    )


def build_fit(
    prepared: Prepared,
    run: RunDirectory,
    tracker: Tracker,
    progress: FitProgress,
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[Fit, Judge]:
    """Put data, network, loss and instruments together into a fit, and the judge of it beside them."""
    config, store = prepared.config, prepared.store
    windows = TrainingWindows(store, prepared.splits)
    validation = validation_cutoffs(prepared.splits, MAX_VALIDATION_WINDOWS)
    dtype = DTYPES[config.fit.precision]
    floor = series_scale_floor(prepared.panel, prepared.splits, config.model.scaler != "none").to(store.device, dtype)
    data = FitData(store, windows, validation, floor, prepared.panel.ids)
    loss = build_loss(config.fit.loss, prepared.forecaster.config.output_levels, config.model.head)
    schedule = never if config.gradients.preset == "off" else logging_schedule
    probe = build_probe(prepared, data, loss)
    judge = Judge(prepared, probe)
    fit = Fit(
        prepared.forecaster, data, loss, config.fit, config.optimizer, schedule, run.checkpoints, tracker, progress,
        stop_requested, build_monitor(prepared, probe), build_watch(judge),
    )  # fmt: skip
    return fit, judge


def _log_failure(tracker: Tracker, error: BaseException) -> None:
    if isinstance(error, NumericalError):
        verdict = non_finite_verdict(error)
        tracker.log_tags(verdict_tags(verdict))
        tracker.log_note(f"# non_finite\n\n{error}")
    tracker.log_tags({"error": f"{type(error).__name__}: {error}"[:500]})
    tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")


def non_finite_verdict(error: NumericalError, head: HeadName = "quantile") -> Verdict:
    """The verdict on a fit that stopped because a number was none."""
    remedies = (
        Remedy(why="smaller steps", set={"optimizer.learning_rate": 1e-4}),
        Remedy(why="bound the gradient", set={"fit.max_grad_norm": 1.0}),
        Remedy(why="scale every window", set={"model.scaler": usual_scaler(head)}),
    )
    finding = Finding(
        rule="non_finite", severity="fault", where=error.where, step=0, value=math.inf, threshold=0.0,
        message=str(error), remedies=remedies,
    )  # fmt: skip
    return Verdict(verdict="non_finite", findings=(finding,))
