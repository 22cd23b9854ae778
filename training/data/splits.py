"""Training, validation and test rows of every series, divided by cutoffs near its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.errors import MAX_SHOWN, DataError, Problem

if TYPE_CHECKING:
    from training.data.panel import Panel

VALIDATION_SHARE = 10


@dataclass(frozen=True)
class Splits:
    """Where the parts of each series end, in rows from its start.

    Rows `[0, train_end)` may be trained on, `[train_end, val_end)` select the model, `[val_end, lengths)` test it. A
    series too short to spare validation rows gives all its rows before the test to training: its `train_end` equals
    its `val_end`.

    Attributes:
        train_end: End of the training rows (N,).
        val_end: End of the validation rows (N,).
        lengths: Rows of each series (N,).
        horizon: Steps of a target, which must lie inside one part.
        excluded: Series without a single training window, and why.
        notes: What was decided, to be said aloud.
    """

    train_end: NDArray[np.int64]
    val_end: NDArray[np.int64]
    lengths: NDArray[np.int64]
    horizon: int
    excluded: dict[str, str]
    notes: tuple[str, ...] = ()


def _ends(
    lengths: NDArray[np.int64], horizon: int, val_size: int | None, test_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    val_end = np.maximum(lengths - test_size, 0)
    wanted = np.maximum(-(-lengths // VALIDATION_SHARE), horizon) if val_size is None else val_size
    spared = val_end - wanted
    return np.where(spared > horizon, spared, val_end), val_end


def training_rows(lengths: NDArray[np.int64], horizon: int, val_size: int | None, test_size: int) -> NDArray[np.int64]:
    """Training rows of series of the given lengths: what statistics and vocabularies may be computed from."""
    return _ends(lengths, horizon, val_size, test_size)[0]


def build_splits(panel: Panel, horizon: int, val_size: int | None = None, test_size: int = 0) -> Splits:
    """Divide every series.

    Args:
        panel: The series.
        horizon: Steps of a target.
        val_size: Validation steps per series; None is a tenth of the series, at least one horizon.
        test_size: Test steps at the end of every series.

    Raises:
        DataError: If no series has a training window, or none a validation window.
    """
    lengths = panel.lengths
    train_end, val_end = _ends(lengths, horizon, val_size, test_size)
    has_window = train_end > horizon
    has_validation = val_end - train_end >= horizon
    excluded = {
        panel.ids[i]: f"{lengths[i]} rows, of which {train_end[i]} may be trained on; a window needs {horizon + 1}"
        for i in np.flatnonzero(~has_window)
    }
    if not has_window.any():
        raise DataError([_too_short(lengths, horizon, test_size, "training")])
    if not has_validation.any():
        if val_size is not None and val_size < horizon:
            message = f"is {val_size}, shorter than the horizon of {horizon}."
            raise DataError(
                [
                    Problem(
                        "val_size_too_short",
                        "data.val_size",
                        message,
                        f"Set data.val_size: {horizon}, or leave it null.",
                    )
                ]
            )
        raise DataError([_too_short(lengths, horizon, test_size, "validation")])
    return Splits(train_end, val_end, lengths, horizon, excluded, _notes(panel, excluded, has_window & ~has_validation))


def _too_short(lengths: NDArray[np.int64], horizon: int, test_size: int, part: str) -> Problem:
    needed = horizon + 1 + test_size + (horizon if part == "validation" else 0)
    message = f"the longest series has {int(lengths.max())} rows, but a {part} window needs {needed}."
    return Problem(
        "series_too_short",
        "data",
        message,
        "Lower model.horizon, data.val_size or data.test_size, or bring longer series.",
    )


def _notes(panel: Panel, excluded: dict[str, str], no_validation: NDArray[np.bool_]) -> tuple[str, ...]:
    notes = []
    if excluded:
        some = "; ".join(f"{name!r}: {reason}" for name, reason in list(excluded.items())[:MAX_SHOWN])
        notes.append(f"{len(excluded)} series too short to train on ({some})")
    if no_validation.any():
        names = [panel.ids[i] for i in np.flatnonzero(no_validation)]
        some = ", ".join(repr(name) for name in names[:MAX_SHOWN])
        notes.append(f"{len(names)} series too short to spare validation steps; all their steps train ({some})")
    return tuple(notes)
