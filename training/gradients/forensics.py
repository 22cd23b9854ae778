"""Where a loss or a gradient stopped being a number: layer, series and window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.forecaster import Forecaster, ForecastInputs
from training.data.windows import WindowBatch

MAX_WINDOWS = 5


@dataclass(frozen=True)
class NonFiniteLocation:
    """What is known about the first non-finite value of a step.

    Attributes:
        layer: First layer, from the input on, whose output is not finite; `loss` or `gradient` if all are.
        windows: Series name and cutoff (rows known) of the windows it came from, at most five.
    """

    layer: str
    windows: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        if not self.windows:
            return f"first in {self.layer}"
        names = ", ".join(f"series {name!r} at row {cutoff}" for name, cutoff in self.windows)
        return f"first in {self.layer}; windows: {names}"


@torch.no_grad()
def locate_non_finite(forecaster: Forecaster, batch: WindowBatch, ids: Sequence[str]) -> NonFiniteLocation:
    """Run the step's forward pass once more, watching every layer.

    Args:
        forecaster: The network as it was at the step.
        batch: The step's windows.
        ids: Names of the series.

    Returns:
        The first layer with a non-finite output, and the windows that are non-finite in the input or the forecast.
    """
    first: list[str] = []

    def watch(name: str) -> object:
        def hook(_module: object, _arguments: object, output: object) -> None:
            if not first and not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(output)):
                first.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in forecaster.layers().items()]  # type: ignore[arg-type]
    try:
        forecast = forecaster.forward_scaled(batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    bad = ~torch.isfinite(forecast.prediction).flatten(1).all(dim=1) | _bad_inputs(batch)
    rows = bad.nonzero().flatten().tolist()[:MAX_WINDOWS]
    windows = tuple((ids[int(batch.series[row])], int(batch.cutoff[row])) for row in rows)
    inputs_bad = bool(_bad_inputs(batch).any())
    return NonFiniteLocation("input" if inputs_bad else (first[0] if first else "the gradient"), windows)


def _bad_inputs(batch: WindowBatch) -> Tensor:
    tensors = ForecastInputs(*batch.inputs)
    bad = ~torch.isfinite(batch.target) & batch.target_mask
    flags = bad.any(dim=1)
    for tensor in (tensors.context, tensors.past_covariates, tensors.future_covariates, tensors.static_covariates):
        flags = flags | ~torch.isfinite(tensor).flatten(1).all(dim=1)
    return flags


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)] if isinstance(output, tuple | list) else []
