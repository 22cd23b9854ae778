"""Try the remedies of a faulty run, one after the other, and keep what helped.

A greedy walk: every attempt applies the best untried remedy of the best run so far, on top of its settings. What counts
is the error on validation, never the gradient alone: a remedy that lets the gradient reach and forecasts no better has
not helped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.gradients.verdict import Remedy, Verdict

# Errors closer than this are the same: retraining alone moves them by as much.
SAME_ERROR = 0.005


@dataclass(frozen=True)
class Attempt:
    """One run on the way.

    Attributes:
        settings: What was changed from the run that was asked for; empty for that run itself.
        remedy: The last change and why; without settings for the first run.
        rule: The rule that proposed it.
        verdict: What came of it.
        val_loss: Best validation loss; infinite if the fit failed.
        val_error: MASE (or MAE) on validation, comparable between losses and scalers; infinite if the fit failed.
        seconds: What it cost.
        run_id: In the tracking store; None if it is not known.
        directory: Of the run.
    """

    settings: dict[str, Any]
    remedy: Remedy
    rule: str
    verdict: Verdict
    val_loss: float
    val_error: float
    seconds: float
    run_id: str | None = None
    directory: Path | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether no fault was found."""
        return self.verdict.verdict == "healthy"

    def is_better_than(self, other: Attempt) -> bool:
        """A lower validation error; between equal ones, the healthy one."""
        if self.val_error < other.val_error * (1 - SAME_ERROR):
            return True
        close = self.val_error <= other.val_error * (1 + SAME_ERROR)
        return close and self.is_healthy and not other.is_healthy

    def to_dict(self) -> dict[str, Any]:
        """A JSON document; None where a number is not finite."""
        return {
            "set": self.settings,
            "rule": self.rule,
            "why": self.remedy.why,
            "verdict": self.verdict.verdict,
            "val_loss": self.val_loss if math.isfinite(self.val_loss) else None,
            "val_error": self.val_error if math.isfinite(self.val_error) else None,
            "seconds": round(self.seconds, 1),
            "run_id": self.run_id,
        }


@dataclass(frozen=True)
class Plan:
    """What to try next.

    Attributes:
        settings: All changes from the run that was asked for.
        remedy: The newest of them.
        rule: The rule that proposed it.
        base: The attempt it builds on.
    """

    settings: dict[str, Any]
    remedy: Remedy
    rule: str
    base: Attempt


@dataclass(frozen=True)
class Budget:
    """Where healing ends.

    Attributes:
        attempts: Child runs at most.
        seconds: No child run begins after so many; None = no limit.
    """

    attempts: int
    seconds: float | None = None


@dataclass(frozen=True)
class Healing:
    """What was tried, and what was kept.

    Attributes:
        attempts: The first is the run that was asked for.
        kept: Position of the one that was kept.
    """

    attempts: tuple[Attempt, ...]
    kept: int

    @property
    def best(self) -> Attempt:
        """The attempt that was kept."""
        return self.attempts[self.kept]

    @property
    def is_healed(self) -> bool:
        """Whether a remedy was kept and nothing is wrong any more."""
        return self.kept > 0 and self.best.is_healthy

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return {
            "healed": self.is_healed,
            "kept": self.kept,
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }

    def to_markdown(self) -> str:
        """A table of all attempts."""
        rows = [
            "| | tried | because of | verdict | validation loss | validation error | |",
            "|---|---|---|---|---|---|---|",
        ]
        for number, attempt in enumerate(self.attempts):
            what = ", ".join(f"`{key}={_yaml(value)}`" for key, value in attempt.remedy.set.items())
            loss, error = (
                f"{value:.4g}" if math.isfinite(value) else "-" for value in (attempt.val_loss, attempt.val_error)
            )
            kept = "**kept**" if number == self.kept else ""
            cells = (str(number), what or "as asked for", attempt.rule, attempt.verdict.verdict, loss, error, kept)
            rows.append(f"| {' | '.join(cells)} |")
        return "\n".join(rows)


def heal(first: Attempt, try_plan: Callable[[Plan], Attempt], budget: Budget, say: Callable[[str], None]) -> Healing:
    """Try remedies until a run is healthy, none is left, or the budget is spent.

    Args:
        first: The faulty run.
        try_plan: Runs one plan; must return an attempt even if its fit fails.
        budget: When to give up.
        say: Told every attempt and what it did.

    Returns:
        All attempts, and the one with the lowest validation error among them.
    """
    attempts, best = [first], first
    tried: list[dict[str, Any]] = [first.settings]
    started = time.monotonic()
    while len(attempts) <= budget.attempts and not (best.is_healthy and best is not first):
        if budget.seconds is not None and time.monotonic() - started > budget.seconds:
            say(f"healing ends: its budget of {budget.seconds:g} seconds is spent")
            break
        plan = next_plan(attempts, best, tried)
        if plan is None:
            say("healing ends: no remedy is left to try")
            break
        changes = " ".join(f"{key}={_yaml(value)}" for key, value in plan.remedy.set.items())
        say(
            f"healing, attempt {len(attempts)} of {budget.attempts}, against {plan.rule}: {changes} ({plan.remedy.why})"
        )
        tried.append(plan.settings)
        attempt = try_plan(plan)
        attempts.append(attempt)
        helped = attempt.is_better_than(best)
        say(
            f"  {attempt.verdict.verdict}, validation error {attempt.val_error:.4g} after {best.val_error:.4g}: "
            + ("kept" if helped else "not kept")
        )
        best = attempt if helped else best
    return Healing(tuple(attempts), attempts.index(best))


def next_plan(attempts: list[Attempt], best: Attempt, tried: list[dict[str, Any]]) -> Plan | None:
    """The first untried remedy of the best attempt's findings, faults first; then those of the others.

    Args:
        attempts: So far.
        best: The one to build on.
        tried: Settings that were tried.

    Returns:
        What to try; None if nothing is left.
    """
    others = [attempt for attempt in reversed(attempts) if attempt is not best]
    for base in (best, *others):
        for severity in ("fault", "warning"):
            for finding in base.verdict.findings:
                for remedy in finding.remedies if finding.severity == severity else ():
                    settings = base.settings | remedy.set
                    if remedy.set and settings not in tried:
                        return Plan(settings, remedy, finding.rule, base)
    return None


def _yaml(value: object) -> str:
    return "null" if value is None else str(value)
