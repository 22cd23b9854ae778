"""`gradcast tune` from configuration to winner: study, parent run, trials, report, registration."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from optuna import Study

from training.config import TrainingConfig, build_config
from training.data.panel import Panel, load_panel
from training.errors import ConfigurationError, Problem
from training.pipeline import Parent, Say, TrainingResult, train
from training.plots import figure_to_png
from training.preparation import Prepared, prepare
from training.progress import FitProgress
from training.reporting import describe_run
from training.run_directory import RUNS, RunDirectory
from training.tracking.environment import redact
from training.tracking.tracker import RegisteredModel, Tracker
from training.tuning.plots import importances
from training.tuning.report import study_figures, write_study_page
from training.tuning.search import Budget, Search, best_trial, count_states
from training.tuning.space import Choices, Multiples, Range, default_space, describe, resolve_space
from training.tuning.storage import HEARTBEAT_SECONDS, open_storage
from training.tuning.study import OUTCOME_KEY, PARENT_KEY, Plan, counted_trials, find_plan, new_job_id, open_study
from training.tuning.trial import TrialRunner

NewTracker = Callable[[TrainingConfig], Tracker]
PARENT_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        config: As written; without a data file an existing study is joined as it is.
        space: As written; None = the default for the configuration.
        study: Name; None = after the data file.
        storage: Database URL, resolved.
        budget: Where the search ends.
        register: Whether the winner is trained once more, with everything written down, and registered.
        heartbeat_seconds: A trial under way says so this often.
    """

    config: TrainingConfig
    space: Mapping[str, Range | Choices | Multiples] | None
    study: str | None
    storage: str
    budget: Budget
    register: bool = False
    heartbeat_seconds: int = HEARTBEAT_SECONDS


@dataclass(frozen=True)
class TuningResult:
    """What `gradcast tune` reports.

    Attributes:
        plan: The search.
        study: With all its trials.
        status: Why this process ended: `trials`, `seconds`, `exhausted` or `stopped`.
        directory: Where runs, report and winner are.
        winner_config: File that `gradcast train --config` runs; None without a healthy trial.
        storage: Where the study is, without credentials.
        run_id: Of the parent run.
        trained: The winner trained once more, if that was asked for.
    """

    plan: Plan
    study: Study
    status: str
    directory: Path
    winner_config: Path | None
    storage: str
    run_id: str | None
    trained: TrainingResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `tune --json`."""
        model = self.trained.model if self.trained is not None else None
        return {
            "study": self.plan.name,
            "storage": self.storage,
            "status": self.status,
            "run_id": self.run_id,
            "trials": count_states(self.study),
            "winner": self._winner(),
            "importance": importances(self.study),
            "report": str(self.directory / "study.html"),
            "model": None if model is None else _model(model),
        }

    def _winner(self) -> dict[str, Any] | None:
        best = best_trial(self.study)
        if best is None:
            return None
        outcome = best.user_attrs[OUTCOME_KEY]
        keys = ("verdict", "metric", "val_error", "baseline_error", "settings", "run_id", "directory")
        return {"trial": best.number} | {key: outcome[key] for key in keys} | {
            "config_path": str(self.winner_config), "config": outcome["config"],
        }  # fmt: skip


def _model(model: RegisteredModel) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "uri": model.uri, "aliases": list(model.aliases)}


@dataclass(frozen=True)
class Workshop:
    """What a process needs to work on a study.

    Attributes:
        plan: The search.
        panel: The data.
        base: The configuration's own network, prepared; describes the parent run.
    """

    plan: Plan
    panel: Panel
    base: Prepared


def tune(
    request: Request, new_tracker: NewTracker, progress: FitProgress, say: Say, stop_requested: Callable[[], bool]
) -> TuningResult:
    """Search, report, and register the winner if asked to.

    Args:
        request: What is wanted.
        new_tracker: Makes the tracker of a run.
        progress: What the user sees of every fit.
        say: Told every choice and trial in a sentence.
        stop_requested: Whether the user wants it to end.

    Returns:
        The study and its winner.

    Raises:
        GradcastError: Whatever went wrong, by kind.
    """
    storage = open_storage(request.storage, request.heartbeat_seconds)
    known = find_plan(storage, request.study) if request.study is not None else None
    workshop = prepare_plan(request, known, say)
    study, plan, is_new = open_study(storage, workshop.plan, workshop.base.config)
    workshop = replace(workshop, plan=plan)
    for key, dimension in plan.space.items():
        condition = "".join(f", where {name} is {' or '.join(map(str, values))}" for name, values in dimension.when.items())
        say(f"{key}: {describe(dimension)}{condition}")
    counts = count_states(study)
    say(f"study {plan.name!r} {'begun' if is_new else f'joined: {counts}'} in {redact(request.storage)}")
    directory = RUNS / plan.name
    directory.mkdir(parents=True, exist_ok=True)
    parent = ParentRun(workshop, directory, new_tracker)
    parent_id = parent.open(study, is_new)
    runner = TrialRunner(plan, workshop.panel, directory, new_tracker, progress, lambda: False, parent_id)
    search = Search(study, runner, request.budget, say, stop_requested)
    search.runner = replace(runner, stop_requested=lambda: stop_requested() or search.is_late())
    try:
        status = search.run()
    except BaseException:
        parent.close(study, None)
        raise
    winner_config = write_winner(study, directory)
    parent.close(study, winner_config)
    result = TuningResult(plan, study, status, directory, winner_config, redact(request.storage), parent_id)
    if request.register and winner_config is not None and status != "stopped":
        return replace(result, trained=train_winner(result, workshop, new_tracker, progress, say, stop_requested))
    return result


def prepare_plan(request: Request, known: Plan | None, say: Say) -> Workshop:
    """What is searched: as asked for, or as the study of that name says where no data file is named.

    Raises:
        ConfigurationError: If neither names data, or there is nothing to search.
    """
    config = request.config
    if config.data.path is None:
        if known is None:
            message = "must name a data file, or --study one that exists."
            raise ConfigurationError([Problem("config_missing", "data.path", message, "Give --data FILE.")])
        config = known.config
    panel = load_panel(config.data, horizon=config.model.horizon or 0)
    base = prepare(config, panel)
    if request.config.data.path is None and known is not None:
        return Workshop(known, panel.extended(base.horizon), base)
    for note in base.notes:
        say(note)
    written = default_space(config) if request.space is None else request.space
    longest = max(1, (int(np.median(panel.lengths)) - config.data.test_size) // 2)
    space = resolve_space(written, base.config, longest)
    if not space:
        message = "leaves nothing to search: every key of the default space is set."
        remedy = "Leave some out, or name what to try with --space FILE (see --print-space)."
        raise ConfigurationError([Problem("space_empty", "configuration", message, remedy)])
    name = request.study or f"{base.config.tracking.model_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    plan = Plan(name, _fixed(config, base.config), space, panel.fingerprint, new_job_id(name))
    return Workshop(plan, panel.extended(base.horizon), base)


def _fixed(config: TrainingConfig, resolved: TrainingConfig) -> TrainingConfig:
    """The user's configuration with what must not differ between trials: all but initialisation and schedule."""
    tree = resolved.model_dump(by_alias=True)
    tree["model"]["initialization"] = config.model.initialization
    tree["optimizer"]["schedule"] = config.optimizer.schedule
    return build_config(tree)


def write_winner(study: Study, directory: Path) -> Path | None:
    """The best healthy trial's configuration as a file."""
    best = best_trial(study)
    if best is None:
        return None
    path = directory / "winner.yaml"
    config = build_config(best.user_attrs[OUTCOME_KEY]["config"])
    path.write_text(config.to_yaml(), encoding="utf-8")
    return path


def train_winner(
    result: TuningResult, workshop: Workshop, new_tracker: NewTracker, progress: FitProgress, say: Say,
    stop_requested: Callable[[], bool],
) -> TrainingResult:  # fmt: skip
    """Train the winner by itself, with report and bundle, and register it."""
    best = best_trial(result.study)
    assert best is not None
    tree = dict(best.user_attrs[OUTCOME_KEY]["config"])
    tree["data"] = tree["data"] | {"path": workshop.base.config.data.path}
    tree["tracking"] = tree["tracking"] | {"register": True, "run_name": f"{result.plan.name} winner"}
    config = build_config(tree)
    say(f"training the winner, trial {best.number}, once more: report, bundle, registration")
    place = result.directory / f"winner-{time.strftime('%Y%m%d-%H%M%S')}"
    parent = Parent(result.run_id, result.plan.job_id)
    return train(config, new_tracker(config), progress, say, place, None, stop_requested, parent)


class ParentRun:
    """The run that the trials are nested below; every process that ends tells it how the study stands.

    Args:
        workshop: Describes it.
        directory: Where the report is written.
        new_tracker: Makes its tracker.
    """

    def __init__(self, workshop: Workshop, directory: Path, new_tracker: NewTracker) -> None:
        self._workshop, self._directory, self._new_tracker = workshop, directory, new_tracker
        self._tracker: Tracker | None = None

    def open(self, study: Study, is_new: bool) -> str | None:
        """The run's identity: begun by the process that began the study, asked for by the others."""
        deadline = time.monotonic() + (0 if is_new else PARENT_WAIT_SECONDS)
        while time.monotonic() < deadline:
            if (known := study.user_attrs.get(PARENT_KEY)) is not None:
                return str(known) or None
            time.sleep(0.2)
        self._tracker = self._start()
        run_id = self._tracker.run_id
        study.set_user_attr(PARENT_KEY, run_id or "")
        return run_id

    def close(self, study: Study, winner_config: Path | None) -> None:
        """Write the report, and tell the run: pictures, page, trials, winner, and the errors by number of the trial."""
        plan = self._workshop.plan
        figures = study_figures(study, plan)
        page = write_study_page(study, plan, figures, winner_config)
        (self._directory / "study.html").write_text(page, encoding="utf-8")
        trials = [{"number": trial.number} | trial.user_attrs.get(OUTCOME_KEY, {}) for trial in counted_trials(study)]
        (self._directory / "trials.json").write_text(json.dumps(trials, indent=1), encoding="utf-8")
        tracker = self._tracker or self._start()
        for name, figure in figures.items():
            tracker.log_figure(f"study/{name}.png", figure_to_png(figure))
        files = [self._directory / name for name in ("study.html", "trials.json")]
        for path in [*files, *([] if winner_config is None else [winner_config])]:
            tracker.log_artifact(path, "study")
        self._log_course(study, tracker)
        tracker.finish("FINISHED")

    def _start(self) -> Tracker:
        workshop = self._workshop
        run = RunDirectory(self._directory)
        if not run.state_path.exists():
            run.write_state(job_id=workshop.plan.job_id, status="study")
        described = describe_run(workshop.base, run, {"tune.study": workshop.plan.name})
        space = {f"space.{key}": describe(dimension) for key, dimension in workshop.plan.space.items()}
        name = f"study {workshop.plan.name}"
        tracker = self._new_tracker(workshop.base.config)
        tracker.start(
            replace(described, run_name=name, job_id=workshop.plan.job_id, params=dict(described.params) | space)
        )
        return tracker

    def _log_course(self, study: Study, tracker: Tracker) -> None:
        best, counts = best_trial(study), count_states(study)
        if not counts.get("running"):
            for trial in counted_trials(study):
                error = trial.user_attrs.get(OUTCOME_KEY, {}).get("val_error")
                if error is not None:
                    tracker.log_metrics({"tune/val_error": error}, trial.number)
        tags = {f"tune.{name}": str(count) for name, count in counts.items()}
        note = f"# Study {self._workshop.plan.name}\n\nNo healthy trial."
        if best is not None:
            outcome = best.user_attrs[OUTCOME_KEY]
            tags |= {"tune.winner_trial": str(best.number), "tune.winner_run": outcome["run_id"] or ""}
            tracker.log_metrics({"tune/best_val_error": float(best.value or 0.0)}, best.number)
            settings = yaml.safe_dump(outcome["settings"], sort_keys=False)
            note = (
                f"# Study {self._workshop.plan.name}\n\nTrial {best.number} is the best: {outcome['metric'].upper()} "
                f"{outcome['val_error']:.4g}\n\n```yaml\n{settings}```\n\n[report](artifact:study/study.html)"
            )
        tracker.log_tags(tags)
        tracker.log_note(note)
