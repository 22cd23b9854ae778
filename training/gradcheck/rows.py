"""What a gradient check found, as data and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Tolerance(NamedTuple):
    """Largest relative error that still counts as equal.

    Attributes:
        finite_difference: Against central differences, whose own error is about 1e-9.
        hand_derived: Against the hand-derived gradient, exact but for rounding.
    """

    finite_difference: float = 1e-6
    hand_derived: float = 1e-10


TOLERANCE = Tolerance()


class TensorError(NamedTuple):
    """How far autograd is off for one tensor; every number is dimensionless.

    Attributes:
        name: The tensor.
        finite_difference: Norm of the difference over the larger norm, along the directions that were tried.
        hand_derived: The same over all entries, against the hand-derived gradient.
        hand_derived_elementwise: Largest relative error of a single entry.
    """

    name: str
    finite_difference: float
    hand_derived: float
    hand_derived_elementwise: float


@dataclass(frozen=True)
class GradcheckRow:
    """The check of one network or part of it.

    Attributes:
        architecture: The network with its depth.
        what: `encoder`, or `forecaster` with its scaler and loss.
        tensors: Errors tensor by tensor.
        tolerance: What they are held against.
    """

    architecture: str
    what: str
    tensors: tuple[TensorError, ...]
    tolerance: Tolerance = TOLERANCE

    @property
    def max_relative_error_finite_difference(self) -> float:
        """Largest over the tensors."""
        return _largest(tensor.finite_difference for tensor in self.tensors)

    @property
    def max_relative_error_hand_derived(self) -> float:
        """Largest over the tensors."""
        return _largest(tensor.hand_derived for tensor in self.tensors)

    @property
    def worst(self) -> TensorError:
        """The tensor that comes closest to, or goes furthest beyond, its tolerance."""
        return max(
            self.tensors,
            key=lambda tensor: _largest(
                (
                    tensor.finite_difference / self.tolerance.finite_difference,
                    tensor.hand_derived / self.tolerance.hand_derived,
                )
            ),
        )

    @property
    def passed(self) -> bool:
        """Whether every tensor is within both tolerances."""
        return (
            self.max_relative_error_finite_difference < self.tolerance.finite_difference
            and self.max_relative_error_hand_derived < self.tolerance.hand_derived
        )

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON: an error that is not finite becomes null (and the row has not passed)."""
        return {
            "architecture": self.architecture,
            "what": self.what,
            "max_relative_error_finite_difference": _finite(self.max_relative_error_finite_difference),
            "max_relative_error_hand_derived": _finite(self.max_relative_error_hand_derived),
            "tolerance": self.tolerance._asdict(),
            "passed": self.passed,
            "tensors": [{name: _finite(value) for name, value in tensor._asdict().items()} for tensor in self.tensors],
        }


def format_gradcheck(rows: Sequence[GradcheckRow]) -> str:
    """A table for the terminal: one line per row, then the sentence that matters.

    Args:
        rows: What `run_gradcheck` returned.

    Returns:
        Lines of at most 120 characters without a trailing newline.
    """
    if not rows:
        return "Nothing was checked."
    names = max(len(row.architecture) for row in rows)
    parts = max(len(row.what) for row in rows)
    lines = [f"{'network':<{names}}  {'what':<{parts}}  {'finite diff.':>12}  {'by hand':>8}  result"]
    for row in rows:
        result = "ok" if row.passed else f"FAILED: {row.worst.name}"
        lines.append(
            f"{row.architecture:<{names}}  {row.what:<{parts}}  {row.max_relative_error_finite_difference:>12.1e}"
            f"  {row.max_relative_error_hand_derived:>8.1e}  {result}"
        )
    return "\n".join((*lines, "", _summary(rows)))


def _summary(rows: Sequence[GradcheckRow]) -> str:
    failed = sum(not row.passed for row in rows)
    verdict = f"{failed} of {len(rows)} checks failed" if failed else f"all {len(rows)} checks passed"
    differences = _largest(row.max_relative_error_finite_difference for row in rows)
    by_hand = _largest(row.max_relative_error_hand_derived for row in rows)
    return (
        f"Largest relative error of autograd: {differences:.1e} against central finite differences "
        f"(tolerance {rows[0].tolerance.finite_difference:.0e}),\n{by_hand:.1e} against gradients derived by hand "
        f"(tolerance {rows[0].tolerance.hand_derived:.0e}), float64: {verdict}."
    )


def _largest(errors: Iterable[float]) -> float:
    """The maximum, where not-a-number is the worst of all: `max` alone would depend on the order."""
    return max(math.inf if math.isnan(error) else error for error in errors)


def _finite(value: str | float) -> str | float | None:
    return value if isinstance(value, str) or math.isfinite(value) else None
