"""Whether a target is made of counts, which the distributions over counts ask for."""

from __future__ import annotations

import numpy as np

from training.data.store import Panel
from training.errors import MAX_SHOWN, DataError, Problem


def validate_counts(panel: Panel, head: str) -> None:
    """Refuse a target with observed values other than 0, 1, 2 and so on.

    Args:
        panel: The series.
        head: The head that forecasts counts.

    Raises:
        DataError: Naming the first series at fault, and what is wrong there.
    """
    problems: list[Problem] = []
    remedy = "Set model.head: student_t (or quantile), or leave gaps to data.fill: mask."
    for name, start, end in zip(panel.ids, panel.offsets[:-1], panel.offsets[1:], strict=True):
        values = np.asarray(panel.values[start:end])[np.asarray(panel.observed[start:end])]
        wrong = values[(values < 0) | (values != np.round(values))]
        if len(wrong):
            kind = "negative" if wrong[0] < 0 else "fractional"
            message = (
                f"must have counts for model.head: {head}, but has {len(wrong)} values that are not, the first {kind}."
            )
            problems.append(Problem("not_counts", f"series {name!r}", message, remedy))
        if len(problems) > MAX_SHOWN:
            break
    if problems:
        raise DataError(problems)
