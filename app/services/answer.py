"""What a request came to, before it is written in one of the formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from app.services.encoding import EncodedSeries
from app.services.filling import is_whole
from app.services.levels import Levels
from app.services.loading import Resolved
from app.services.series_error import SeriesError
from app.services.timeline import Timeline

Outcome = EncodedSeries | SeriesError


@dataclass(frozen=True)
class Answer:
    """Forecasts of a request's series.

    Attributes:
        found: The model that answered.
        unique_ids: Of every series, in the order of the request.
        outcomes: A window or a problem per series.
        values: Per key of `levels`, forecasts (B, H) of the B series that are no problems.
        levels: What was asked for.
        horizon: Steps asked for.
        timeline: The model's time.
    """

    found: Resolved
    unique_ids: Sequence[str]
    outcomes: Sequence[Outcome]
    values: Sequence[NDArray[np.float32]]
    levels: Levels
    horizon: int
    timeline: Timeline

    @property
    def num_forecasts(self) -> int:
        """B."""
        return len(self.values[0])

    @property
    def is_partial(self) -> bool:
        """Whether a series has no forecast."""
        return self.num_forecasts < len(self.outcomes)

    def rows(self) -> Iterator[tuple[str, Outcome, int]]:
        """Name, outcome, and place in `values` (of a problem: that of the next forecast) of every series."""
        place = 0
        for unique_id, outcome in zip(self.unique_ids, self.outcomes, strict=True):
            yield unique_id, outcome, place
            place += isinstance(outcome, EncodedSeries)

    def stamps(self, series: EncodedSeries) -> NDArray[np.int64]:
        """Timestamps of the forecast."""
        # The window ends with the network's horizon, of which the first steps were asked for.
        first = len(series.stamps) - self.found.model.manifest.network.horizon
        return series.stamps[first : first + self.horizon]

    def stamps_text(self, series: EncodedSeries) -> orjson.Fragment:
        """The same as JSON."""
        return self.timeline.text(series.start, series.count, series.count + self.horizon)


def build_answer(
    found: Resolved,
    unique_ids: Sequence[str],
    outcomes: Sequence[Outcome],
    values: Sequence[NDArray[np.float32]],
    levels: Levels,
    horizon: int,
    timeline: Timeline,
) -> Answer:
    """An answer whose forecasts are all finite; a series with another one becomes a problem.

    Args:
        found: The model.
        unique_ids: Of every series.
        outcomes: A window or a problem per series.
        values: Forecasts (B, H) of the windows per key.
        levels: Keys of K.
        horizon: H.
        timeline: The model's time.
    """
    if not all(map(is_whole, values)):
        is_good = np.all([np.isfinite(rows).all(axis=1) for rows in values], axis=0)
        outcomes, values = _without(outcomes, ~is_good), [rows[is_good] for rows in values]
    return Answer(found, unique_ids, outcomes, values, levels, horizon, timeline)


def _without(outcomes: Sequence[Outcome], is_bad: NDArray[np.bool_]) -> list[Outcome]:
    checked: list[Outcome] = []
    row = 0
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, EncodedSeries):
            if is_bad[row]:
                message = "The forecast of this series is not finite: its values are too large or too uneven."
                outcome = SeriesError("forecast_not_finite", f"series.{index}", message)
            row += 1
        checked.append(outcome)
    return checked
