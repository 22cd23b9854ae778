"""A run's gradients as the page draws them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Lenient(BaseModel):
    # A run recorded by a later release may say more.
    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class SeriesBody(_Lenient):
    """A quantity over optimizer steps."""

    steps: list[int]
    values: list[float | None]


class FlowBody(_Lenient):
    """How much of the gradient arrives how far back in one layer."""

    label: str
    steps: list[int]
    lags: list[int]
    """Steps of the data back from the forecast."""
    decades: list[list[float | None]]
    """For every step and lag the decimal logarithm of the gradient's share; lags 1 to 5 are 0."""


class RemedyBody(_Lenient):
    """A change of settings and why it should help."""

    why: str
    set: dict[str, Any]
    restart: str
    rule: str


class FindingBody(_Lenient):
    """What a rule found."""

    rule: str
    title: str
    severity: Literal["info", "warning", "fault"]
    where: str
    step: int
    value: float | None
    threshold: float | None
    message: str
    remedies: list[RemedyBody]


class NeedBody(_Lenient):
    """How far back the data pays."""

    steps: int
    source: str
    source_words: str
    is_shown: bool
    contexts: list[int]
    errors: list[float | None]


class OutcomeBody(_Lenient):
    """Forecast errors on validation windows."""

    metric: str
    errors: dict[str, float | None]


class UnitBody(_Lenient):
    """What one step of the data is called."""

    one: str
    many: str
    note: str


class GradientsBody(_Lenient):
    """One run: its verdict in words, and what it rests on."""

    name: str
    status: str
    is_preliminary: bool
    """Whether the run goes on and the verdict may change."""
    step: int
    max_steps: int
    best_step: int
    network: dict[str, Any]
    unit: UnitBody
    verdict: str
    tone: str
    """good, bad or unsure."""
    headline: str
    explanation: str
    outcome_sentence: str
    outcome: OutcomeBody | None
    reach_steps: int | None
    """Lag out to which gradient arrives."""
    need_steps: int | None
    """Lag out to which the data pays."""
    typical_reach: int | None
    ratio_at_need: float | None
    arrival_sentence: str
    need: NeedBody | None
    findings: list[FindingBody]
    remedies: list[RemedyBody]
    """What to change, the most promising first."""
    settings: dict[str, Any]
    """Dotted keys of model, optimizer, fit and gradients."""
    flow: dict[str, FlowBody]
    """By layer; `stack` is the whole network where there are several."""
    norms: dict[str, SeriesBody]
    """Gradient norm before clipping, by layer."""
    reach: dict[str, SeriesBody]
    losses: dict[str, SeriesBody]
