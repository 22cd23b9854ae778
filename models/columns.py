"""Which columns a network reads, in which role: what training and serving must agree on to the letter."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field


class Columns(BaseModel):
    """Names and roles of the input columns, stored in the bundle.

    A categorical column of text is expanded to one 0/1 column per category, named `column=category`; a category never
    seen in training is all zeros. Numbers stay as they are; their standardisation is part of the network.

    Attributes:
        futr_exog: Covariates known for the past and the future.
        hist_exog: Covariates known for the past only.
        stat_exog: Covariates that are constant over a series.
        categories: Vocabulary per categorical column, in the order of the 0/1 columns.
        calendar: Features computed from the timestamp, known for past and future.
        series: Series that have a learned vector each, in the order of their numbers, from 1; empty without vectors.
        holidays: Names of public holidays by ISO date, by place; read by the calendar features `holiday_PLACE`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    futr_exog: tuple[str, ...] = ()
    hist_exog: tuple[str, ...] = ()
    stat_exog: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    calendar: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    holidays: dict[str, dict[str, str]] = Field(default_factory=dict)

    def _expanded(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            feature
            for name in names
            for feature in (
                tuple(f"{name}={category}" for category in self.categories[name])
                if name in self.categories
                else (name,)
            )
        )

    @property
    def future_features(self) -> tuple[str, ...]:
        """Feature names along the channels of `future_covariates`: known-future columns, then calendar."""
        return self._expanded(self.futr_exog) + self.calendar

    @property
    def past_features(self) -> tuple[str, ...]:
        """Feature names along the channels of `past_covariates`: past-only columns after the known-future ones."""
        return self.future_features + self._expanded(self.hist_exog)

    @property
    def static_features(self) -> tuple[str, ...]:
        """Feature names along the channels of `static_covariates`, without the number of the series."""
        return self._expanded(self.stat_exog)

    @property
    def num_static_channels(self) -> int:
        """Channels of `static_covariates`: the static features, and the number of the series where it has a vector."""
        return len(self.static_features) + bool(self.series)

    def series_numbers(self, ids: Sequence[str]) -> list[int]:
        """Number of each series among those that have a vector; 0 for one that has none."""
        numbers = {name: number for number, name in enumerate(self.series, start=1)}
        return [numbers.get(name, 0) for name in ids]
