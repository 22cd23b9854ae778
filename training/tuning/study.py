"""What a search is, kept with its study, so that every process that joins it by name searches for the same."""

from __future__ import annotations

import hashlib
import secrets
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from training.config import TrainingConfig, build_config
from training.errors import ConfigurationError, Problem
from training.gradients.rules.thresholds import EARLIEST_SHARE
from training.judgement import flat_settings
from training.tuning.space import Choices, Dimension, Range, is_active, parse_space

PLAN_KEY, PARENT_KEY, OUTCOME_KEY, LOST_KEY = "plan", "parent_run_id", "outcome", "not_counted"
RANDOM_TRIALS, TRIALS_BEFORE_PRUNING = 8, 4
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
# The process that creates a study writes its plan a moment later.
PLAN_WAIT_SECONDS = 10.0
# May differ between the processes of one study: where its files and its tracking store are, and what it runs on.
LOCAL_KEYS = ("data.path", "tracking.uri", "tracking.required", "tracking.register", "fit.device", "fit.num_threads")


@dataclass(frozen=True)
class Plan:
    """One search.

    Attributes:
        name: Of the study.
        config: What every trial starts from; lengths that depend on the data are filled in.
        space: What is changed.
        fingerprint: sha256 of the data.
        job_id: Of the parent run, the same for every process.
    """

    name: str
    config: TrainingConfig
    space: Mapping[str, Dimension]
    fingerprint: str
    job_id: str

    def to_dict(self) -> dict[str, Any]:
        """As it is kept with the study."""
        return {
            "config": self.config.model_dump(mode="json", by_alias=True),
            "space": {key: dimension.model_dump(mode="json") for key, dimension in self.space.items()},
            "fingerprint": self.fingerprint,
            "job_id": self.job_id,
        }

    @classmethod
    def from_dict(cls, name: str, document: Mapping[str, Any]) -> Plan:
        """What `to_dict` wrote."""
        space = parse_space(document["space"])
        dimensions = {key: value for key, value in space.items() if isinstance(value, Range | Choices)}
        config = build_config(document["config"])
        return cls(name, config, dimensions, document["fingerprint"], document["job_id"])

    def first_params(self, resolved: TrainingConfig) -> dict[str, Any]:
        """The configuration's own values, as far as the space holds them: the first trial.

        Args:
            resolved: The configuration without nulls.
        """
        settings = flat_settings(resolved)
        return {
            key: settings[key]
            for key, dimension in self.space.items()
            if dimension.holds(settings[key]) and is_active(dimension, settings)
        }


def new_job_id(name: str) -> str:
    """Identity of a new study's parent run."""
    return f"study-{hashlib.sha256(name.encode()).hexdigest()[:8]}-{secrets.token_hex(6)}"


def find_plan(storage: RDBStorage, name: str) -> Plan | None:
    """The plan of a study that is there."""
    if name not in {summary.study_name for summary in optuna.get_all_study_summaries(storage)}:
        return None
    study = optuna.load_study(study_name=name, storage=storage)
    deadline = time.monotonic() + PLAN_WAIT_SECONDS
    while PLAN_KEY not in study.user_attrs and time.monotonic() < deadline:
        time.sleep(0.1)
    document = study.user_attrs.get(PLAN_KEY)
    return None if document is None else Plan.from_dict(name, document)


def open_study(storage: RDBStorage, plan: Plan, resolved: TrainingConfig) -> tuple[Study, Plan, bool]:
    """Create a study, or join the one of that name.

    Args:
        storage: Where it is kept.
        plan: What this process wants to search for.
        resolved: Its configuration without nulls: the first trial of a new study.

    Returns:
        The study, its plan with this process's own paths, and whether it was created here.

    Raises:
        ConfigurationError: If the study of that name searches for something else.
    """
    try:
        study = optuna.create_study(storage=storage, study_name=plan.name, direction="minimize")
        study.set_user_attr(PLAN_KEY, plan.to_dict())
        if params := plan.first_params(resolved):
            study.enqueue_trial(params)
        is_new = True
    except optuna.exceptions.DuplicatedStudyError:
        study, is_new = optuna.load_study(study_name=plan.name, storage=storage), False
    known = find_plan(storage, plan.name) or plan
    _validate_same(known, plan)
    study.sampler = NumberedSampler(plan.config.fit.seed)
    warm_up = int(EARLIEST_SHARE * plan.config.fit.max_steps)
    study.pruner = MedianPruner(TRIALS_BEFORE_PRUNING, n_warmup_steps=warm_up)
    return study, Plan(plan.name, plan.config, known.space, known.fingerprint, known.job_id), is_new


def _validate_same(known: Plan, wanted: Plan) -> None:
    ours, theirs = flat_settings(wanted.config), flat_settings(known.config)
    odd = [key for key in theirs if key not in LOCAL_KEYS and theirs[key] != ours.get(key)]
    if known.space != dict(wanted.space):
        odd.append("the space")
    if known.fingerprint != wanted.fingerprint:
        odd.append("the data")
    if odd:
        message = f"exists and differs in {', '.join(odd[:5])}{' and more' if len(odd) > 5 else ''}."
        remedy = "Join it with --study alone, or choose another name."
        raise ConfigurationError([Problem("study_differs", f"study {wanted.name!r}", message, remedy)])


def lose_stale_trials(study: Study) -> None:
    """Trials of processes that have not been heard of become lost ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def counted_trials(study: Study) -> list[FrozenTrial]:
    """Trials that use up the budget: finished, pruned, or under way somewhere; by number."""
    return study.get_trials(deepcopy=False, states=COUNTED)


class NumberedSampler(BaseSampler):
    """A tree-structured Parzen estimator whose randomness follows from the number of the trial.

    Processes that share a study share its seed too; with one generator per process they would draw the same settings.

    Args:
        seed: Of the study.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._current: tuple[int, TPESampler] | None = None

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if self._current is None or self._current[0] != trial.number:
            digest = hashlib.sha256(f"{self._seed}/{trial.number}".encode()).digest()
            sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=int.from_bytes(digest[:4], "big"))
            self._current = trial.number, sampler
        return self._current[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Keys that are drawn together."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw them."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one key by itself."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)
