"""Which columns a network reads, in which role: what training and serving must agree on to the letter."""

from __future__ import annotations

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
        holidays: Names of public holidays by ISO date, by place; read by the calendar features `holiday_PLACE`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    futr_exog: tuple[str, ...] = ()
    hist_exog: tuple[str, ...] = ()
    stat_exog: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    calendar: tuple[str, ...] = ()
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
        """Feature names along the channels of `static_covariates`."""
        return self._expanded(self.stat_exog)
