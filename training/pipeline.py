"""The composition root: the only place that builds objects and puts them together."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models.bundle import save_bundle
from training.backtest import BacktestResult
from training.checkpoint import LAST, find_checkpoint, read_checkpoint, restore_network
from training.checks import Check, run_checks
from training.config import TrainingConfig
from training.conformal import CalibrationReport, calibrate
from training.errors import ConfigurationError, NumericalError, Problem, StorageError, TrackingError
from training.evaluation import baseline_metrics, finite_metrics
from training.final_fit import fit_on_all_rows
from training.following import send_assignment
from training.gradients.conclusion import conclude, conclude_non_finite
from training.gradients.evidence import Evidence
from training.gradients.schedule import logging_schedule, never
from training.gradients.verdict import Verdict
from training.healing import Healing
from training.judgement import Judge, build_monitor, build_probe, build_watch
from training.loop import Fit, FitData, FitInterruptedError, FitState
from training.losses import build_loss
from training.model_card import write_model_card
from training.preparation import Prepared, build_fit_data, prepare
from training.progress import SILENT_PROGRESS, FitProgress, RecordedProgress
from training.report.review import RunReview, Status
from training.report.view import write_view
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
from training.team import ALONE, Team
from training.thread_choice import choose_threads
from training.threads import kept_threads
from training.tracking.tracker import NOOP_TRACKER, RegisteredModel, RegistrationRequest, Tracker

PROGRESS = "progress.jsonl"
# In the run's state: not in its configuration, which is the same on every machine.
NUM_THREADS, MAX_THREADS = "num_threads", 4096
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

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
        checks: What else was found about data and forecasts.
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
    checks: tuple[Check, ...] = ()
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
            "checks": [check.to_dict() for check in self.checks],
            "timing": {
                "prepare_seconds": round(self.prepared.seconds, 3),
                "fit_seconds": round(self.state.fit_seconds, 3),
                "processor_seconds": round(self.state.processor_seconds, 3),
                "check_seconds": round(self.state.check_seconds, 3),
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
    team: Team = ALONE,
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
        team: The processes that fit it together; this one leads.

    Returns:
        Everything there is to report.

    Raises:
        GradcastError: Whatever went wrong, by kind.
        FitInterruptedError: If the user stopped the fit.
    """
    left_open = None if resume is None else resume.left_open()
    prepared = prepare(config, watch=progress.reading, left_open=left_open, stop_requested=stop_requested)
    config = prepared.config
    if config.fit.batch_size < team.size:
        message = f"must be at least one window per worker, but is {config.fit.batch_size} for {team.size} instead."
        raise ConfigurationError([Problem("config_conflict", "fit.batch_size", message, "Raise it, or use fewer workers.")])
    _leave_if(stop_requested)  # before a comparison that was cut short says what it chose
    for note in prepared.notes:
        say(note)
    run = resume or RunDirectory.create(config, output)
    say(f"run directory {run.path}")
    with run.locked():
        run.write_state(status="running", left_open=prepared.left_open)
        with _truthful_end(run, tracker):
            tracker.start(describe_run(prepared, run, parent.tags() if parent else {}))
            if parent is not None and parent.checkpoint is not None:
                restore_network(prepared.forecaster, read_checkpoint(parent.checkpoint)[0], parent.checkpoint)
            judged = fit_and_judge(prepared, run, tracker, progress, say, stop_requested, resume is not None, team)
            _leave_if(stop_requested)
            result = _publish(prepared, run, judged, tracker)
            _leave_if(stop_requested)
            if config.tracking.register_model and (parent is None or result.verdict.verdict == "healthy"):
                result.model = _register(result, tracker)
        result.num_unsent = tracker.finish("FINISHED")
        run.write_state(status="finished", run_id=result.run_id)
    return result


def _leave_if(stop_requested: Callable[[], bool]) -> None:
    """End between two phases: after the fit the last checkpoint holds everything, so that a resumed run goes straight on."""
    if stop_requested():
        raise FitInterruptedError


@contextmanager
def _truthful_end(run: RunDirectory, tracker: Tracker) -> Iterator[None]:
    """However the run ends, its directory and the tracking store say so, and the error says how to go on.

    Raises:
        StorageError: For a disk that refuses.
    """
    try:
        yield
    except FitInterruptedError as stop:
        stop.directory = run.path
        run.write_state(status="stopped")
        tracker.finish("KILLED")
        raise
    except BaseException as error:
        with contextlib.suppress(OSError):  # what failed may be this very disk
            run.write_state(status="failed")
        with contextlib.suppress(TrackingError):  # the tracker may be what failed
            _log_failure(tracker, error)
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            remedy = f"Make room or repair it, then continue: gradcast train --resume {run.path}"
            actual = f"not ({os.strerror(error.errno or 0)})"
            raise StorageError(str(error.filename or run.path), "writable", actual, remedy) from error
        raise


@dataclass(frozen=True)
class Judged:
    """A finished fit, judged and not yet written down.

    Attributes:
        state: Losses, norms and timing.
        backtests: Validation, and test if there is one.
        verdict: What the gradients and the outcome say.
        evidence: What it rests on.
        calibration: What conformal calibration rests on; None without one.
        final: Data and network of the fit on all rows; None without one.
    """

    state: FitState
    backtests: dict[str, BacktestResult]
    verdict: Verdict
    evidence: Evidence
    calibration: CalibrationReport | None = None
    final: Prepared | None = None


@kept_threads()
def fit_and_judge(
    prepared: Prepared,
    run: RunDirectory,
    tracker: Tracker = NOOP_TRACKER,
    progress: FitProgress = SILENT_PROGRESS,
    say: Say = _keep_quiet,
    stop_requested: Callable[[], bool] = lambda: False,
    resume: bool = False,
    team: Team = ALONE,
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
        team: The processes that fit it together; this one leads.

    Returns:
        The fit with its verdict; the network holds the best weights.

    Raises:
        NumericalError: If a loss or gradient is not finite.
        FitInterruptedError: If the user stopped the fit.
    """
    keep_start = prepared.config.fit.warm_start is not None
    recorded = RecordedProgress(run.path / PROGRESS, progress)
    fit, judge = build_fit(prepared, run, tracker, recorded, stop_requested, keep_start, team=team)
    if resume and (checkpoint := find_checkpoint(run.checkpoints)) is not None:
        if checkpoint.name != LAST:
            say(f"{run.checkpoints / LAST} is missing or damaged; the checkpoint before it is taken")
        fit.resume(checkpoint)
        say(f"resumed at step {fit.state.step}")
    write_gradients(run, judge.gather(fit.state, None))
    try:
        send_assignment(team, prepared)
        _settle_threads(prepared, fit.data, run, say, team, resume)
        state = fit.run()
    except NumericalError as error:
        evidence = judge.gather(fit.state, None)
        verdict = conclude_non_finite(str(error), error.where, error.step, evidence, fit.state.readings)
        write_gradients(run, evidence, fit.state.readings, verdict)
        write_view(_review(prepared, run, fit.state, evidence, verdict, "failed"))
        raise
    say(f"fit ended at step {state.step}; best validation loss {state.best_val_loss:.4f} at step {state.best_step}")
    calibration = calibrate_fit(prepared, fit, say)
    _leave_if(stop_requested)
    backtests = judge.evaluation.run_all()
    judged = Judged(state, backtests, *judge.judge(state, backtests), calibration)
    if not prepared.config.fit.final:
        return judged
    say(f"final fit on all rows, for the chosen {max(1, state.best_step)} steps")
    final = fit_on_all_rows(prepared, state, fit.data.validation, fit.loss_function, run, progress, team)
    return replace(judged, final=final)


def _settle_threads(prepared: Prepared, data: FitData, run: RunDirectory, say: Say, team: Team, resume: bool) -> None:
    """Give a fit that was not told the threads it is fastest with; a resumed run those it began with: sums depend on them."""
    if prepared.config.fit.num_threads is not None or team.size > 1 or not run.state_path.exists():
        return
    recorded = run.state().get(NUM_THREADS)
    if resume and type(recorded) is int and 1 <= recorded <= MAX_THREADS:
        torch.set_num_threads(recorded)
    elif not resume:
        chosen, reason = choose_threads(prepared, data)
        torch.set_num_threads(chosen)
        run.write_state(**{NUM_THREADS: chosen})
        if reason is not None:
            say(f"fit.num_threads = {chosen} ({reason})")


def calibrate_fit(prepared: Prepared, fit: Fit, say: Say = _keep_quiet) -> CalibrationReport | None:
    """Calibrate the quantiles of a finished fit, if its configuration asks for it, and say what that rests on."""
    if prepared.config.model.conformal == "none":
        return None
    report = calibrate(prepared.forecaster, prepared.store, prepared.splits, fit.data.scale_floor)
    if report is None:
        say("intervals are not calibrated: too few validation targets for their outermost level; raise data.val_size")
        return None
    shares = ", ".join(
        f"{share:.0%} to {report.coverage_after[percent]:.0%} of {percent} %"
        for percent, share in report.coverage_before.items()
    )
    say(f"intervals calibrated on {report.num_windows:,} validation windows: {shares}")
    return report


def _publish(prepared: Prepared, run: RunDirectory, judged: Judged, tracker: Tracker) -> TrainingResult:
    """Write bundle, reports and figures, and hand them to the tracker."""
    state, backtests, verdict = judged.state, judged.backtests, judged.verdict
    deployed = judged.final or prepared
    final_fit_steps = None if judged.final is None else max(1, state.best_step)
    manifest = describe_bundle(deployed, backtests, verdict, judged.calibration, final_fit_steps)
    checks = run_checks(prepared.panel, prepared.splits, backtests, prepared.known_until)
    name = prepared.config.tracking.model_name or "model"
    note = write_model_card(manifest, verdict, name, prepared.notes, [str(check) for check in checks])
    save_bundle(run.bundle, deployed.forecaster, manifest, extra_files(prepared))
    write_reports(prepared, run, state, backtests, verdict, judged.evidence, [check.message for check in checks])
    log_outcome(tracker, run, state, backtests, verdict, note, Unit.of(prepared.config.data.freq))
    result = TrainingResult(tracker.run_id, run.path, prepared, state, backtests, verdict, judged.evidence, note)
    result.checks = checks
    return result


def _register(result: TrainingResult, tracker: Tracker) -> RegisteredModel | None:
    tracking = result.prepared.config.tracking
    tags = verdict_tags(result.verdict) | {
        "gradcast.version": gradcast_version(),
        "data.fingerprint": result.prepared.panel.fingerprint,
        "fit.final": str(result.prepared.config.fit.final).lower(),
    }
    if result.prepared.config.fit.warm_start is not None:
        tags["fit.warm_start"] = result.prepared.config.fit.warm_start
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
    keep_start: bool = False,
    watch: Callable[[Judge], Callable[[FitState], bool]] = build_watch,
    team: Team = ALONE,
) -> tuple[Fit, Judge]:
    """Put data, network, loss and instruments together into a fit, and the judge of it beside them.

    Args:
        prepared: Data and network.
        run: Where checkpoints go.
        tracker: Where metrics go.
        progress: What the user sees of the fit.
        stop_requested: Asked after every step.
        keep_start: Whether the weights from before the first step compete for the best.
        watch: Makes of the judge what is asked after every check; what it raises ends the fit.
        team: The processes that take a share of every batch each.
    """
    config, data = prepared.config, build_fit_data(prepared)
    loss = build_loss(config.fit.loss, prepared.forecaster.config.output_levels, config.model.head)
    schedule = never if config.gradients.preset == "off" else logging_schedule
    probe = build_probe(prepared, data, loss)
    judge = Judge(prepared, probe)
    fit = Fit(
        prepared.forecaster, data, loss, config.fit, config.optimizer, schedule, run.checkpoints, tracker, progress,
        stop_requested, build_monitor(prepared, probe), _show_at_checks(prepared, run, judge, watch(judge)), keep_start,
        team,
    )  # fmt: skip
    return fit, judge


def _show_at_checks(
    prepared: Prepared, run: RunDirectory, judge: Judge, is_hopeless: Callable[[FitState], bool]
) -> Callable[[FitState], bool]:
    """What is asked after every check: whether to give up; on the way, whoever watches is shown how it stands."""

    def look(state: FitState) -> bool:
        evidence = judge.gather(state, None)
        write_view(_review(prepared, run, state, evidence, conclude(evidence, state.readings), "running"))
        return is_hopeless(state)

    return look


def _review(
    prepared: Prepared, run: RunDirectory, state: FitState, evidence: Evidence, verdict: Verdict, status: Status
) -> RunReview:
    name, is_preliminary = run.path.resolve().name, status == "running"
    return RunReview(name, run.path, prepared.config, state.readings, evidence, verdict, status, is_preliminary)


def _log_failure(tracker: Tracker, error: BaseException) -> None:
    if isinstance(error, NumericalError):
        tracker.log_tags({"gradient.verdict": "non_finite"})
        tracker.log_note(f"# non_finite\n\n{error}")
    tracker.log_tags({"error": f"{type(error).__name__}: {error}"[:500]})
    tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
