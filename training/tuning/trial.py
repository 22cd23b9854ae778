"""One trial: settings from the study, a fit with the judge beside it, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optuna import Trial

from models.errors import NetworkConfigError
from training.config import TrainingConfig, build_config
from training.data.panel import Panel
from training.errors import ConfigurationError, DataError, NumericalError
from training.evaluation import finite_metrics
from training.gradients.conclusion import conclude_non_finite
from training.gradients.evidence import Outcome
from training.gradients.verdict import Verdict
from training.judgement import Judge, Look, flat_settings
from training.loop import FitState
from training.pipeline import build_fit
from training.preparation import Prepared, prepare
from training.progress import FitProgress
from training.reporting import describe_run, write_gradients
from training.run_directory import RunDirectory
from training.tracking.tracker import RunStatus, Tracker
from training.tuning.space import Choices, is_active
from training.tuning.study import Plan

HEALTHY = ("healthy", "inconclusive")
DECIMALS = 10


class TrialEndedError(Exception):
    """A fit was ended at a check, because it is unhealthy or because others were better by then."""

    def __init__(self, look: Look, is_unhealthy: bool) -> None:
        self.look, self.is_unhealthy = look, is_unhealthy
        super().__init__(look.verdict.verdict)


class ImpossibleTrialError(Exception):
    """Settings that no network can be built from; the trial does not count."""


@dataclass(frozen=True)
class TrialOutcome:
    """What came of a trial, as it is kept with the study.

    Attributes:
        state: `complete`, `pruned_by_verdict` or `pruned_by_validation`.
        verdict: Of the gradients, at the end or where the fit was ended.
        metric: `mase`, or `mae` where no series has a scale.
        val_error: In that metric, on validation; None if it is not finite.
        baseline_error: Of the simple methods on the same windows.
        settings: What the trial changed, by dotted key.
        config: Everything that was resolved, for `gradcast train --config`.
        step: Updates done.
        seconds: Taken, preparation included.
        directory: Of the run.
        run_id: In the tracking store; None if it is not known.
        message: What the verdict rests on.
    """

    state: str
    verdict: str
    metric: str
    val_error: float | None
    baseline_error: Mapping[str, float]
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    step: int
    seconds: float
    directory: str
    run_id: str | None = None
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)


@dataclass(frozen=True)
class TrialRunner:
    """Everything that the trials of one process have in common.

    Attributes:
        plan: The search.
        panel: The data.
        directory: Where runs go.
        new_tracker: Makes the tracker of a trial.
        progress: What the user sees of every fit.
        stop_requested: Asked after every step.
        parent_run_id: The run they are nested below; None if it is not known.
    """

    plan: Plan
    panel: Panel
    directory: Path
    new_tracker: Callable[[TrainingConfig], Tracker]
    progress: FitProgress
    stop_requested: Callable[[], bool]
    parent_run_id: str | None = None
    extra_tags: Mapping[str, str] = field(default_factory=dict)

    def run(self, trial: Trial, settings: Mapping[str, Any]) -> TrialOutcome:
        """Fit, judge and record one trial.

        Args:
            trial: Told the validation error at every check.
            settings: From `suggest`.

        Returns:
            What came of it; a fit that was ended at a check, or by a number that is none, is an outcome too.

        Raises:
            ImpossibleTrialError: If no network can be built from the settings.
            FitInterruptedError: If the user stopped it, or the time was up.
        """
        started = time.monotonic()
        try:
            prepared = prepare(trial_config(self.plan, settings, trial.number), self.panel)
        except (ConfigurationError, NetworkConfigError, DataError) as error:
            raise ImpossibleTrialError(str(error)) from error
        run = RunDirectory.create(prepared.config, self._place(trial.number))
        tracker = self.new_tracker(prepared.config)
        tracker.start(describe_run(prepared, run, self._tags(trial.number)))
        try:
            outcome, metrics = self._fit(prepared, run, tracker, trial, settings, started)
        except BaseException as error:
            run.write_state(status="stopped")
            tracker.log_tags({"tune.state": "lost", "error": f"{type(error).__name__}: {error}"[:500]})
            tracker.finish("KILLED")
            raise
        return self._record(outcome, metrics, run, tracker)

    def _place(self, number: int) -> Path:
        path = self.directory / f"trial-{number}"
        # A study of the same name may have been deleted and begun again.
        return path if not path.exists() else self.directory / f"trial-{number}-{time.time_ns():x}"

    def _tags(self, number: int) -> dict[str, str]:
        nested = {} if self.parent_run_id is None else {"mlflow.parentRunId": self.parent_run_id}
        return nested | {"tune.study": self.plan.name, "tune.trial": str(number)} | dict(self.extra_tags)

    def _fit(
        self, prepared: Prepared, run: RunDirectory, tracker: Tracker, trial: Trial, settings: Mapping[str, Any],
        started: float,
    ) -> tuple[TrialOutcome, dict[str, float | None]]:  # fmt: skip
        fit, judge = build_fit(
            prepared, run, tracker, self.progress, self.stop_requested, watch=lambda judge: TrialWatch(judge, trial)
        )
        write_gradients(run, judge.gather(fit.state, None))
        metrics: dict[str, float | None] = {}
        look: Look | None = None
        try:
            state = fit.run()
            backtests = {"val": judge.evaluation.run("val")}
            verdict, evidence = judge.judge(state, backtests)
            metrics = finite_metrics(backtests)
            reason = "complete" if verdict.verdict in HEALTHY else "pruned_by_verdict"
        except TrialEndedError as end:
            look = end.look
            verdict, evidence = look.verdict, look.evidence
            reason = "pruned_by_verdict" if end.is_unhealthy else "pruned_by_validation"
        except NumericalError as error:
            evidence = judge.gather(fit.state, None)
            verdict = conclude_non_finite(str(error), error.where, error.step, evidence, fit.state.readings)
            reason = "pruned_by_verdict"
        write_gradients(run, evidence, fit.state.readings, verdict)
        outcome = _outcome(reason, verdict, evidence.outcome, fit.state, prepared, settings)
        return TrialOutcome(**outcome, seconds=round(time.monotonic() - started, 2), directory=str(run.path)), metrics

    def _record(
        self, outcome: TrialOutcome, metrics: Mapping[str, float | None], run: RunDirectory, tracker: Tracker
    ) -> TrialOutcome:
        numbers = {key: value for key, value in metrics.items() if value is not None}
        if outcome.val_error is not None:
            numbers["tune/val_error"] = outcome.val_error
        tracker.log_metrics(numbers, outcome.step)
        tracker.log_tags({"tune.state": outcome.state, "gradient.verdict": outcome.verdict})
        tracker.log_note(f"# {outcome.state.replace('_', ' ')}: {outcome.verdict}\n\n{outcome.message}")
        for path, folder in ((run.path / "config.yaml", ""), (run.path / "gradients", "gradients")):
            tracker.log_artifact(path, folder)
        run_id = tracker.run_id
        status: RunStatus = "FINISHED" if outcome.state == "complete" else "KILLED"
        tracker.finish(status)
        run.write_state(status="finished", run_id=run_id)
        return TrialOutcome(**(vars(outcome) | {"run_id": run_id}))


class TrialWatch:
    """Asked at every check of a fit: tells the study the error, and ends fits that are unhealthy or behind.

    Args:
        judge: Of the fit.
        trial: Of the study.
    """

    def __init__(self, judge: Judge, trial: Trial) -> None:
        self.judge, self.trial = judge, trial

    def __call__(self, state: FitState) -> bool:
        """Never asks to end the fit as if it were over: an ended trial is another thing than a finished one."""
        look = self.judge.look(state)
        if math.isfinite(look.outcome.val_error):
            self.trial.report(look.outcome.val_error, state.step)
        if look.is_confirmed:
            raise TrialEndedError(look, is_unhealthy=True)
        if self.trial.should_prune():
            raise TrialEndedError(look, is_unhealthy=False)
        return False


def suggest(plan: Plan, trial: Trial) -> dict[str, Any]:
    """Settings of a trial by dotted key; conditions are looked up among what has been drawn and the configuration."""
    known, settings = flat_settings(plan.config), {}
    for key, dimension in plan.space.items():
        if not is_active(dimension, known):
            continue
        if isinstance(dimension, Choices):
            value = trial.suggest_categorical(key, dimension.choices)
        elif dimension.is_whole:
            step = int(dimension.step or 1)
            value = trial.suggest_int(key, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
        else:
            low, high = float(dimension.low), float(dimension.high)
            value = round(trial.suggest_float(key, low, high, step=dimension.step, log=dimension.log), DECIMALS)
        known[key] = settings[key] = value
    return settings


def trial_config(plan: Plan, settings: Mapping[str, Any], number: int) -> TrainingConfig:
    """The configuration of one trial.

    Raises:
        ConfigurationError: If the settings are impossible together.
    """
    tree = plan.config.model_dump(by_alias=True)
    for key, value in (dict(settings) | {"tracking.run_name": f"{plan.name} trial {number}"}).items():
        section, name = key.split(".")
        tree[section][name] = value
    return build_config(tree)


def _outcome(
    reason: str, verdict: Verdict, outcome: Outcome | None, state: FitState, prepared: Prepared,
    settings: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    error = outcome.val_error if outcome is not None and math.isfinite(outcome.val_error) else None
    config = prepared.config.model_dump(mode="json", by_alias=True)
    config["tracking"]["run_name"] = None
    return {
        "state": reason,
        "verdict": verdict.verdict,
        "metric": outcome.metric if outcome is not None else "mase",
        "val_error": error,
        "baseline_error": dict(outcome.baseline_error) if outcome is not None else {},
        "settings": dict(settings),
        "config": config,
        "step": state.step,
        "message": verdict.findings[0].message if verdict.findings else "",
    }
