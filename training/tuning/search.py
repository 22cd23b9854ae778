"""The search: trial after trial until the budget is spent, beside any number of other processes doing the same."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna import Study, Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from training.loop import FitInterruptedError
from training.tuning.study import LOST_KEY, OUTCOME_KEY, counted_trials, lose_stale_trials
from training.tuning.trial import ImpossibleTrialError, TrialOutcome, TrialRunner, suggest

Say = Callable[[str], None]
# So many draws in a row without a new setting: the space is used up, or holds nothing possible.
MAX_FRUITLESS_DRAWS = 12


@dataclass(frozen=True)
class Budget:
    """Where a search ends.

    Attributes:
        trials: Of the study, over all its processes; lost ones do not count.
        seconds: Of this process; None = no limit.
    """

    trials: int
    seconds: float | None = None


class NotCountedError(Exception):
    """A trial that is given back: it does not use up the budget."""


class Search:
    """One process's share of a study.

    Args:
        study: From `open_study`.
        runner: Runs a trial.
        budget: Where it ends.
        say: Told every trial in a sentence.
        user_stopped: Whether the user wants it to end.
    """

    def __init__(
        self, study: Study, runner: TrialRunner, budget: Budget, say: Say, user_stopped: Callable[[], bool]
    ) -> None:
        self.study, self.runner, self.budget, self.say = study, runner, budget, say
        self._user_stopped = user_stopped
        self._started = time.monotonic()
        self._fruitless = 0
        self._last_problem = ""

    def run(self) -> str:
        """Run trials until the budget is spent.

        Returns:
            Why it ended: `trials`, `seconds`, `exhausted` or `stopped`.
        """
        while True:
            lose_stale_trials(self.study)
            if self._user_stopped():
                return "stopped"
            if len(counted_trials(self.study)) >= self.budget.trials:
                return "trials"
            if self.is_late():
                return "seconds"
            if self._fruitless >= MAX_FRUITLESS_DRAWS:
                self.say(f"the space is used up: {self._last_problem}")
                return "exhausted"
            try:
                self.study.optimize(self._objective, n_trials=1, catch=(NotCountedError,))
            except FitInterruptedError:
                continue
            except UpdateFinishedTrialError:
                self.say("a trial was given up by the others while this process stood still; its result is left out")

    def is_late(self) -> bool:
        """Whether the seconds are spent; the first complete trial of the study is waited for."""
        limit = self.budget.seconds
        if limit is None or time.monotonic() - self._started < limit:
            return False
        return any(trial.state == TrialState.COMPLETE for trial in counted_trials(self.study))

    def _objective(self, trial: Trial) -> float:
        settings = suggest(self.runner.plan, trial)
        try:
            self._validate_counts(trial, settings)
            outcome = self.runner.run(trial, settings)
        except FitInterruptedError:
            trial.set_user_attr(LOST_KEY, "stopped")
            raise
        except ImpossibleTrialError as error:
            self._give_back(trial, str(error))
        self._fruitless = 0
        trial.set_user_attr(OUTCOME_KEY, outcome.to_dict())
        self.say(self._sentence(trial.number, outcome))
        if outcome.state != "complete" or outcome.val_error is None:
            raise TrialPruned(outcome.verdict)
        return outcome.val_error

    def _validate_counts(self, trial: Trial, settings: Mapping[str, Any]) -> None:
        """Give back what is beyond the budget, or what a trial with a lower number has already."""
        others = [other for other in counted_trials(self.study) if other.number < trial.number]
        if len(others) >= self.budget.trials:
            self._give_back(trial, "beyond the budget")
        same = next((other.number for other in others if other.params == trial.params), None)
        if same is not None:
            self._give_back(trial, f"it repeats trial {same}")

    def _give_back(self, trial: Trial, why: str) -> None:
        self._fruitless += 1
        self._last_problem = why
        trial.set_user_attr(LOST_KEY, why)
        raise NotCountedError(why)

    def _sentence(self, number: int, outcome: TrialOutcome) -> str:
        settings = " ".join(f"{key}={_short(value)}" for key, value in outcome.settings.items())
        error = "no number" if outcome.val_error is None else f"{outcome.val_error:.4g}"
        what = {
            "complete": f"{outcome.verdict}, {outcome.metric.upper()} {error}",
            "pruned_by_verdict": f"pruned, {outcome.verdict} at step {outcome.step}",
            "pruned_by_validation": f"pruned at step {outcome.step}, {outcome.metric.upper()} {error} is behind the others",
        }[outcome.state]
        return f"trial {number} of {self.budget.trials}: {what}  ({outcome.seconds:.0f} s)  {settings}{self._best()}"

    def _best(self) -> str:
        best = best_trial(self.study)
        return "" if best is None or best.value is None else f"  best so far {best.value:.4g} (trial {best.number})"


def best_trial(study: Study) -> FrozenTrial | None:
    """The healthy trial with the lowest validation error; None while there is none."""
    complete = [trial for trial in counted_trials(study) if trial.state == TrialState.COMPLETE]
    return min(complete, key=lambda trial: (float(trial.value or 0.0), trial.number), default=None)


def count_states(study: Study) -> dict[str, int]:
    """Trials by what became of them; `lost` were killed, stopped or given back."""
    counts: Counter[str] = Counter()
    for trial in study.get_trials(deepcopy=False):
        outcome = trial.user_attrs.get(OUTCOME_KEY)
        if trial.state == TrialState.FAIL:
            counts["given_back" if LOST_KEY in trial.user_attrs else "lost"] += 1
        elif outcome is not None and trial.state != TrialState.RUNNING:
            counts[outcome["state"]] += 1
        else:
            counts[trial.state.name.lower()] += 1
    return dict(counts)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower() if value is None else str(value)
