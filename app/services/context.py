"""The last rows of the series a model was trained on: lets a client ask for a known series by name alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from training.data.context import read_context
from training.data.timestamps import parse_timestamps


@dataclass(frozen=True)
class KnownSeries:
    """Stored rows of one series, on the model's grid though not without gaps.

    Attributes:
        stamps: Microseconds since 1970, or integers.
        y: Values, NaN where missing.
        covariates: Values per covariate column, NaN or None where missing.
    """

    stamps: NDArray[np.int64]
    y: NDArray[np.float64]
    covariates: Mapping[str, Sequence[Any]]


class ContextStore:
    """Stored rows by series.

    Args:
        frame: What `training.data.context` reads: a data frame with unique_id, ds, y and the covariates; None if the
            bundle keeps no context.
    """

    def __init__(self, frame: Any | None) -> None:
        self._frame = frame
        self._rows: Mapping[str, NDArray[np.intp]] = {}
        if frame is not None:
            groups = frame.groupby("unique_id", sort=False, observed=True).indices
            self._rows = {str(name): np.asarray(rows, np.intp) for name, rows in groups.items()}

    def __len__(self) -> int:
        return len(self._rows)

    def target_statistics(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the stored `y` of all series; None without two different values."""
        if self._frame is None:
            return None
        y = self._frame["y"].to_numpy(np.float64)
        y = y[np.isfinite(y)]
        return (float(y.mean()), float(y.std())) if len(y) and float(y.std()) > 0.0 else None

    def read(self, unique_id: str) -> KnownSeries | None:
        """The rows of a series, oldest first; None if it is not known."""
        rows = self._rows.get(unique_id)
        if rows is None or self._frame is None:
            return None
        frame = self._frame.iloc[rows]
        covariates = {str(name): frame[name].tolist() for name in frame.columns if name not in ("unique_id", "ds", "y")}
        return KnownSeries(parse_timestamps(frame["ds"]).stamps, frame["y"].to_numpy(np.float64), covariates)


def read_context_store(bundle: Bundle) -> ContextStore:
    """The context that a bundle keeps, if any; its hash has been verified with the bundle."""
    return ContextStore(read_context(bundle.context_path) if bundle.context_path is not None else None)
