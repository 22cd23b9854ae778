"""Why this forecast: integrated gradients of one forecast with respect to every past step and covariate.

A window is explained around its own level: level and spread stay as they are, and what is divided among the inputs is the
difference to the forecast of a flat window with every covariate at its training mean (Sundararajan et al. 2017,
1703.01365). By their completeness the parts add up to that difference, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.bundle import Bundle
from models.errors import GradcastError
from models.forecaster import Forecaster, ForecastInputs
from training.data.panel import Panel
from training.data.windows import WindowStore
from training.errors import DataError, Problem

# The integral is taken with so many points; with twice as many until it is complete, up to the last.
FIRST_POINTS, MOST_POINTS = 64, 1024
# Largest gap between the sum of the parts and the whole, as a share of the window's spread.
COMPLETE = 1e-3
# Points that are in the network at once.
POINTS_PER_BATCH = 256
# A forecast looks back to the lag within which this share of what moves it lies.
LOOK_BACK_SHARE = 0.95


class ExplanationError(GradcastError):
    """A forecast whose explanation does not add up, or that nothing can be explained of."""

    code = "not_explainable"


class Parts(NamedTuple):
    """One number per input, in the unit of `y` (attributions) or per unit of the input (gradients)."""

    context: Float[np.ndarray, " L"]
    past: Float[np.ndarray, "L P"]
    future: Float[np.ndarray, "H F"]
    static: Float[np.ndarray, " S"]

    def total(self) -> float:
        """Sum of all."""
        return float(sum(np.asarray(part, np.float64).sum() for part in self))


@dataclass(frozen=True)
class Explanation:
    """One series' forecast, taken apart.

    Attributes:
        series: Position in the panel.
        name: Of the series.
        horizon_step: Step that is explained, from 1; None = the mean over the horizon.
        forecast: The median, in the unit of `y`.
        flat_forecast: Of a flat window at the same level with mean covariates.
        attributions: Part of the difference that each input accounts for, in the unit of `y`.
        gradients: Change of the forecast per unit of each input, level and spread held.
        observed: True where the context was really seen.
        values: The inputs in their own units.
        gap: What is missing from the sum of the attributions to the difference, in the unit of `y`.
    """

    series: int
    name: str
    horizon_step: int | None
    forecast: float
    flat_forecast: float
    attributions: Parts
    gradients: Parts
    observed: np.ndarray
    values: Parts
    gap: float

    @property
    def by_lag(self) -> Float[np.ndarray, " L"]:
        """Size of what the past accounts for, by lag from 1: `y` and covariates known only then, signs dropped."""
        sizes = np.abs(self.attributions.context) + np.abs(self.attributions.past).sum(axis=1)
        return sizes[::-1]

    def look_back(self, share: float = LOOK_BACK_SHARE) -> int:
        """Smallest lag within which a share of what the past accounts for lies; 0 if it accounts for nothing."""
        sizes = self.by_lag
        if sizes.sum() <= 0:
            return 0
        return int(np.searchsorted(np.cumsum(sizes) / sizes.sum(), share - 1e-12) + 1)

    def beyond(self, lag: int) -> float:
        """Share of what the past accounts for that lies further back than a lag."""
        sizes = self.by_lag
        return float(sizes[lag:].sum() / sizes.sum()) if sizes.sum() > 0 else 0.0


def explain(
    bundle: Bundle, panel: Panel, names: Sequence[str] | None = None, horizon_step: int | None = None
) -> list[Explanation]:
    """Take the forecasts of series, from their last rows on, apart.

    Args:
        bundle: The model.
        panel: Encoded with the model's columns (`build_request_panel`).
        names: Series to explain; None = all.
        horizon_step: Step ahead, from 1; None = the mean over the horizon.

    Returns:
        One explanation per series.

    Raises:
        DataError: For a series that is not there or has no value in its context, or a step beyond the horizon.
        ExplanationError: If the parts do not add up.
    """
    network = bundle.manifest.network
    _validate(panel, names, horizon_step, network.horizon)
    store = WindowStore(panel, network.context_length, network.horizon)
    chosen = [panel.ids.index(name) for name in names] if names is not None else list(range(len(panel.ids)))
    return [_explain_series(bundle.forecaster, store, panel, series, horizon_step) for series in chosen]


def _validate(panel: Panel, names: Sequence[str] | None, horizon_step: int | None, horizon: int) -> None:
    problems = [
        Problem("series_unknown", f"series {name!r}", "is not in the data.", f"There are {', '.join(panel.ids[:5])} ...")
        for name in names or ()
        if name not in panel.ids
    ]
    if horizon_step is not None and not 1 <= horizon_step <= horizon:
        message = f"must be from 1 to {horizon}, the model's horizon, but is {horizon_step} instead."
        problems.append(Problem("horizon_step_invalid", "--horizon-step", message))
    problems += [
        Problem("covariate_missing", f"series {name!r}", f"must have {', '.join(panel.columns.futr_exog)} for the horizon.")
        for name in panel.series_without_future(horizon)
        if names is None or name in names
    ]
    if problems:
        raise DataError(problems)


def _explain_series(
    forecaster: Forecaster, store: WindowStore, panel: Panel, series: int, horizon_step: int | None
) -> Explanation:
    position = torch.tensor([series])
    inputs = store.gather(position, torch.from_numpy(panel.lengths)[position]).inputs
    name = panel.ids[series]
    if not bool(inputs.observed_mask.any()):
        message = f"has no value in the last {inputs.context.shape[1]} steps, so nothing can be explained of its forecast."
        raise DataError([Problem("context_empty", f"series {name!r}", message, "Bring newer values.")])
    window = FrozenWindow(forecaster, inputs, horizon_step)
    with torch.enable_grad():
        gradients = window.gradients()
        attributions, gap = window.attributions(name)
    return Explanation(
        series, name, horizon_step, window.forecast(), window.flat_forecast(), attributions, gradients,
        inputs.observed_mask[0].numpy(), _parts(inputs.context, inputs.past_covariates, inputs.future_covariates,
                                                inputs.static_covariates), gap,
    )  # fmt: skip


class FrozenWindow:
    """The network around one window whose level and spread are held.

    Args:
        forecaster: In evaluation mode.
        inputs: One window.
        horizon_step: Step ahead, from 1; None = the mean over the horizon.
    """

    def __init__(self, forecaster: Forecaster, inputs: ForecastInputs, horizon_step: int | None) -> None:
        self._forecaster, self._step = forecaster, horizon_step
        dtype = next(forecaster.parameters()).dtype
        inputs = inputs._replace(
            **{name: tensor.to(dtype) for name, tensor in inputs._asdict().items() if name != "observed_mask"}
        )
        self._mask = inputs.observed_mask
        scaled = forecaster.scale_window(inputs)
        self._loc, self._scale = scaled.loc.detach(), scaled.scale.detach()
        future = forecaster.config.num_future_covariates
        self._units = (
            self._scale, forecaster.past_scale, forecaster.past_scale[:future],
            forecaster.static_scale[: forecaster.config.num_static_covariates - bool(forecaster.config.num_series)],
        )  # fmt: skip
        static = (inputs.static_covariates - forecaster.static_loc) / forecaster.static_scale
        self._vector = static[:, :0]
        if forecaster.series_embedding is not None:
            # What a series is called is held as its level is: the vector has no unit that it could change by.
            plain = static.shape[1] - 1
            self._vector = forecaster.series_embedding(static)[:, plain:].detach()
            static = static[:, :plain]
        self._inputs = (
            scaled.scaled.detach(),
            (inputs.past_covariates - forecaster.past_loc) / forecaster.past_scale,
            (inputs.future_covariates - forecaster.past_loc[:future]) / forecaster.past_scale[:future],
            static,
        )

    def __call__(self, context: Tensor, past: Tensor, future: Tensor, static: Tensor) -> Float[Tensor, " B"]:
        """The median forecast that is explained, in the unit of `y`."""
        mask = self._mask.expand(len(context), -1)
        static = torch.cat((static, self._vector.expand(len(static), -1)), dim=1)
        raw = self._forecaster.predict_scaled(ForecastInputs(context, mask, past, future, static), None)
        output = self._forecaster.output
        middle = output.center(output.undo_learned(raw, self._forecaster.scaler))
        steps = middle if self._step is None else middle[:, self._step - 1 : self._step]
        return self._loc[:, 0] + self._scale[:, 0] * steps.mean(dim=1)

    @torch.no_grad()
    def forecast(self) -> float:
        """Of the window as it is."""
        return float(self(*self._inputs))

    @torch.no_grad()
    def flat_forecast(self) -> float:
        """Of a flat window with mean covariates."""
        return float(self(*(torch.zeros_like(part) for part in self._inputs)))

    def gradients(self) -> Parts:
        """Change of the forecast per unit of each input."""
        leaves = tuple(part.clone().requires_grad_() for part in self._inputs)
        found = torch.autograd.grad(self(*leaves).sum(), leaves, allow_unused=True, materialize_grads=True)
        return _parts(*(gradient / unit for gradient, unit in zip(found, self._units, strict=True)))

    def attributions(self, name: str) -> tuple[Parts, float]:
        """Integrated gradients, with more points until they add up.

        Raises:
            ExplanationError: If they do not.
        """
        difference = self.forecast() - self.flat_forecast()
        allowed = COMPLETE * max(abs(difference), float(self._scale))
        gap, points = float("inf"), FIRST_POINTS
        while points <= MOST_POINTS:
            parts = _parts(*_integrated_gradients(self, self._inputs, points))
            gap = difference - parts.total()
            if abs(gap) <= allowed:
                return parts, gap
            points *= 2
        raise ExplanationError(
            f"the explanation of series {name!r}", f"complete to {allowed:.3g}", f"{abs(gap):.3g} short",
            "The network is too rough for integrated gradients here.",
        )  # fmt: skip


def _integrated_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], points: int) -> list[Tensor]:
    """Captum's, over the inputs that have any element; it cannot take empty ones."""
    from captum.attr import IntegratedGradients

    filled = [index for index, part in enumerate(inputs) if part.numel()]

    def with_empty_ones(*given: Tensor) -> Tensor:
        whole = [part.expand(len(given[0]), *part.shape[1:]) for part in inputs]
        for index, part in zip(filled, given, strict=True):
            whole[index] = part
        # Captum wants a gradient of every input, also of one that a network ignores.
        return function(*whole) + sum(0.0 * part.flatten(1).sum(dim=1) for part in given)

    method = IntegratedGradients(with_empty_ones)
    found = method.attribute(
        tuple(inputs[index] for index in filled), n_steps=points, internal_batch_size=POINTS_PER_BATCH
    )
    parts = [torch.zeros_like(part) for part in inputs]
    for index, part in zip(filled, found, strict=True):
        parts[index] = part
    return parts


def _parts(*tensors: Tensor) -> Parts:
    context, past, future, static = (tensor.detach()[0].double().numpy() for tensor in tensors)
    return Parts(context, past, future, static)
