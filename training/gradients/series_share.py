"""Share of the gradient that each series contributes: one wild series can drown a thousand quiet ones."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from models.forecaster import ForecastInputs, RecurrentForecaster
from models.recurrent import EncoderOutput
from training.gradients.reach import Objective
from training.gradients.trace import dropout_off


def measure_series_share(
    forecaster: RecurrentForecaster, inputs: ForecastInputs, objective: Objective, series: Int64[Tensor, " B"]
) -> dict[int, float]:
    """Norm of the loss's gradient at the final state, window by window, summed by series.

    It is the gradient that enters the recurrence: what a window contributes to the recurrent weights is its product
    with the window's own Jacobians.

    Args:
        forecaster: The network.
        inputs: Windows.
        objective: Loss of their forecast.
        series: Which series each window is from.

    Returns:
        Series to share, the largest first; shares sum to 1, or are all 0 without any gradient.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: object, output: EncoderOutput) -> None:
        kept.extend(part for state in output.states for part in state)

    handle = forecaster.encoder.register_forward_hook(keep)
    try:
        with torch.enable_grad(), dropout_off(forecaster):
            loss = objective(forecaster.forward_scaled(inputs))
            gradients = torch.autograd.grad(loss, kept, materialize_grads=True)
    finally:
        handle.remove()
    # A decoder that only reads the top layer leaves the other states without a gradient.
    joined = torch.cat([part.double().transpose(0, 1).flatten(1) for part in gradients], dim=1)
    per_window = torch.linalg.vector_norm(joined, dim=-1).cpu()
    names, position = series.cpu().unique(return_inverse=True)
    sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, position, per_window)
    shares = (sums / sums.sum().clamp(min=torch.finfo(torch.float64).tiny)).tolist()
    return dict(sorted(zip(names.tolist(), shares, strict=True), key=lambda row: -row[1]))
