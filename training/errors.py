"""The pipeline's errors. `training.cli` holds the one table that turns them into exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import GradcastError


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a configuration or a data file.

    Attributes:
        code: Stable identifier, such as `duplicate_timestamps`.
        where: Key path, or file, series and row.
        message: The sentence for the user, without data in bulk.
        remedy: What to do about it.
    """

    code: str
    where: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message} {self.remedy}".rstrip()


MAX_SHOWN = 5


class ProblemsError(GradcastError):
    """Several problems shown together: at most five, then the count."""

    code = "invalid"
    subject = "input"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.subject, "valid", f"invalid in {len(self.problems)} place(s)")

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{self.subject} has {count} problem{'s' if count != 1 else ''}:"]
        lines += [f"  - {problem}" for problem in self.problems[:MAX_SHOWN]]
        if count > MAX_SHOWN:
            lines.append(f"  ... and {count - MAX_SHOWN} more")
        return "\n".join(lines)


class ConfigurationError(ProblemsError):
    """Configuration keys that are unknown, of the wrong type, out of range or impossible together."""

    code = "config_invalid"
    subject = "configuration"


class DataError(ProblemsError):
    """Data that cannot be trained on or forecast from as it stands."""

    code = "data_invalid"
    subject = "data"


class NumericalError(GradcastError):
    """A loss or gradient that stopped being a number, caught before the weights were touched."""

    code = "non_finite"
    loss: float | None = None
    """Loss of the step, if it was computed."""
    step: int = 0
    """Update it would have been, or the last one done where validation broke."""


class ForensicsError(GradcastError):
    """A record of a failed step that is damaged, was changed, or cannot be repeated here."""

    code = "forensics_invalid"


class CheckpointError(GradcastError):
    """A checkpoint that is damaged or belongs to another configuration."""

    code = "checkpoint_invalid"


class WorkerLostError(GradcastError):
    """A process of a fit or of a bulk forecast that ended or cannot be reached."""

    code = "worker_lost"


class ClusterError(GradcastError):
    """A Ray cluster that cannot be reached, or whose machines lack what a fit needs."""

    code = "cluster_unfit"


class StorageError(GradcastError):
    """A directory of this machine that cannot be written: the disk is full, read-only, or somebody else's."""

    code = "storage_unwritable"


class TrackingError(GradcastError):
    """The tracking server or the registry refused or did not answer."""

    code = "tracking_unavailable"


class PromotionRefusedError(GradcastError):
    """A version that the gate keeps from becoming champion.

    Attributes:
        decision: What the gate said, with its reasons.
    """

    code = "promotion_refused"

    def __init__(self, decision: Any) -> None:
        self.decision = decision
        unmet = " ".join(rule.sentence for rule in decision.rules if not rule.is_met)
        where = f"{decision.name} version {decision.version}"
        remedy = "Promote it all the same: --override REASON; the reason is kept."
        super().__init__(where, "healthy and better than champion and seasonal naive", f"not: {unmet}", remedy)

    def __str__(self) -> str:
        unmet = " ".join(rule.sentence for rule in self.decision.rules if not rule.is_met)
        return f"{self.where} stays what it is. {unmet} {self.remedy}"


class StudyError(GradcastError):
    """The database of a search's studies did not answer."""

    code = "study_unavailable"


class ModelNotFoundError(GradcastError):
    """A model name, version or alias that the registry does not hold."""

    code = "model_not_found"
