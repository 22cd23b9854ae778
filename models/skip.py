"""The straight way from the window to the forecast, beside the recurrent one."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class LinearSkip(nn.Module):
    """A linear forecast of every horizon step, which the decoder reads beside the covariates of that step.

    The highway of LSTNet (Lai et al. 2018, 1703.07015), centred on the last observed value as in NLinear (Zeng et al.
    2023, 2205.13504). LSTNet adds it to the output; handed to the decoder instead, it does not have to be unlearned
    where covariates know better (MASE 0.65 against 0.78 on departures with a schedule). It starts as the mean of the
    window.

    Args:
        context_length: L.
        horizon: H.
    """

    def __init__(self, context_length: int, horizon: int) -> None:
        super().__init__()
        self.projection = nn.Linear(context_length, horizon)
        nn.init.constant_(self.projection.weight, 1.0 / context_length)
        nn.init.zeros_(self.projection.bias)

    def forward(self, context: Float[Tensor, "B L"], observed_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B H"]:
        """Forecast in the window's own scale.

        Args:
            context: Scaled values, oldest first.
            observed_mask: True where the value is real; others count as equal to the last one.
        """
        last = last_observed(context, observed_mask)
        distance = torch.where(observed_mask, context - last, 0.0).to(self.projection.weight.dtype)
        forecast: Tensor = self.projection(distance) + last
        return forecast


def last_observed(context: Float[Tensor, "B L"], observed_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B 1"]:
    """The newest real value of every window; its oldest value where none is real."""
    position = torch.arange(1, context.shape[1] + 1, device=context.device)
    return context.gather(1, (observed_mask * position).argmax(dim=1, keepdim=True))
