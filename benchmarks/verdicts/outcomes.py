"""What a run reached, and what that makes of its case: the only source of labels."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cases import CASES, SEEDS
from changes import CHANGES, solving_causes

BASE, REPAIR = "base", "repair"
# A change solves a case if it does so in this many of three seeds.
SOLVING_SEEDS = 2
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Outcome:
    """One run's result.

    Attributes:
        case: Name of the case.
        change: `base`, the name of a change, or `repair`.
        seed: Of data and fit.
        changed: Keys that were set beside the case's own.
        test_error: Mean absolute error on the test rows with the best weights; None if the fit failed.
        failure: What failed.
        achievable: Error of the best possible forecast on the same rows.
        trivial: Error of learning nothing.
        bar: Errors up to here are solved.
        fit_seconds: Time in training steps.
        seconds: Time in all.
    """

    case: str
    change: str
    seed: int
    changed: dict[str, Any]
    test_error: float | None
    failure: str
    achievable: float
    trivial: float
    bar: float
    fit_seconds: float
    seconds: float

    @property
    def error(self) -> float:
        """The test error; infinite if the fit failed or forecast no numbers."""
        return math.inf if self.test_error is None or math.isnan(self.test_error) else self.test_error

    @property
    def is_solved(self) -> bool:
        """Whether the error is below the bar."""
        return self.error <= self.bar

    @property
    def relative_error(self) -> float:
        """0 = as good as possible, 1 = as bad as learning nothing, above = worse; over the bar where both are alike."""
        gap = self.trivial - self.achievable
        return (self.error - self.achievable) / gap if gap > 0.1 * self.achievable else self.error / self.trivial

    def describe(self) -> str:
        """A line for the log."""
        word = "solved" if self.is_solved else "NOT solved"
        return f"{word}, error {self.error:.4g}, bar {self.bar:.4g}, {self.seconds:.1f} s {self.failure}".rstrip()

    def write(self, folder: Path) -> None:
        """Mark the run as done, all or nothing."""
        staging = folder / "outcome.tmp"
        staging.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        staging.replace(folder / "outcome.json")


def run_folder(work: Path, case: str, change: str, seed: int) -> Path:
    """Where a run is kept."""
    return work / "runs" / case / f"{change}-{seed}"


def read_outcomes(work: Path) -> dict[Key, Outcome]:
    """Every finished run of the cases there are."""
    outcomes: dict[Key, Outcome] = {}
    for path in sorted((work / "runs").glob("*/*/outcome.json")):
        outcome = Outcome(**json.loads(path.read_text(encoding="utf-8")))
        if outcome.case in CASES:
            outcomes[outcome.case, outcome.change, outcome.seed] = outcome
    return outcomes


def is_faulty(outcomes: Mapping[Key, Outcome], case: str) -> bool:
    """Whether the median over seeds of a case's error lies above the bar, both relative to what is possible.

    Raises:
        KeyError: If a seed has not been run.
    """
    runs = [outcomes[case, BASE, seed] for seed in SEEDS]
    return statistics.median(run.error / run.bar for run in runs) > 1.0


def solving_changes(outcomes: Mapping[Key, Outcome], case: str) -> list[str]:
    """Names of the changes that solve a case in most seeds."""
    solving = []
    for name in CHANGES:
        runs = [outcomes[case, name, seed] for seed in SEEDS if (case, name, seed) in outcomes]
        if sum(run.is_solved for run in runs) >= SOLVING_SEEDS:
            solving.append(name)
    return solving


def true_causes(outcomes: Mapping[Key, Outcome], case: str) -> frozenset[str]:
    """Verdicts that name a faulty case's cause rightly.

    A fit that stopped at a number that was none is `non_finite` besides whatever led there. A case that no single
    change solves has the causes of none of them: any fault is right, and none is counted for or against.
    """
    causes = solving_causes(solving_changes(outcomes, case), CASES[case].settings)
    failed = sum(bool(outcomes[case, BASE, seed].failure) for seed in SEEDS)
    return causes | ({"non_finite"} if failed >= SOLVING_SEEDS else set())

