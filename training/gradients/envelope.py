"""The free envelope: gradient of the loss at every layer's input, by lag.

At step t it is W_ih^T delta_t, and delta_t carries the recurrent path even through a fused kernel, so ordinary training
steps show how the gradient fades with lag at no extra pass. Only its shape means something, and it misleads where gates
are shut, the input is one column, every step has a loss, or steps are padding: verdicts use the Jacobian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.forecaster import ForecastInputs, RecurrentForecaster
from training.gradients.lags import LagCurve, build_curve, cut_lags, log_spaced_lags, update_cuts
from training.gradients.reach import Objective
from training.gradients.trace import dropout_off, layer_names


class InputRecorder:
    """Keeps the inputs of every recurrent layer of one forward pass.

    Args:
        forecaster: Whose layers.
    """

    def __init__(self, forecaster: RecurrentForecaster) -> None:
        self.names, self.config = layer_names(forecaster), forecaster.config
        self.parts: list[list[Tensor]] = [[] for _ in self.names]

    def keep(self, index: int, inputs: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        """Keep one call's inputs; returns what the layer shall read, which is the same values."""
        if not inputs.requires_grad:
            inputs = inputs.detach().requires_grad_()
        inputs.retain_grad()
        self.parts[index].append(inputs)
        return inputs

    def curves(self, lags: Sequence[int] | None = None, cut_steps: int | None = None) -> list[LagCurve]:
        """One curve per layer from the gradients that `backward()` left, in one copy to the host.

        Args:
            lags: Upper ends of the bins; None = `log_spaced_lags`.
            cut_steps: Truncation in steps, if training truncates.

        Returns:
            Curves of kind `envelope`: root mean square over windows, channels and the lags of a bin, which runs from
            the lag before (exclusive) to its own (inclusive).
        """
        unit, length = self.config.steps_per_update, self.config.recurrent_steps
        ends = update_cuts(lags or log_spaced_lags(length), unit, self.config.num_updates)
        table = torch.stack([_bin_rms(self._gradient(parts), ends) for parts in self.parts]).tolist()
        dtype = self.parts[0][0].dtype
        at = cut_lags(ends, unit, length)
        return [
            build_curve(name, "input", "envelope", at, row, dtype, cut_steps)
            for name, row in zip(self.names, table, strict=True)
        ]

    def _gradient(self, parts: list[Tensor]) -> Float[Tensor, "B L C"]:
        gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in parts]
        return gradients[0] if len(gradients) == 1 else torch.cat(gradients, dim=1)


def _bin_rms(gradient: Float[Tensor, "B L C"], ends: Sequence[int]) -> Float[Tensor, " bins"]:
    # Bins are summed one by one: differences of a cumulative sum would lose a tail 16 digits below its head.
    per_step = gradient.double().square().mean(dim=(0, 2)).flip(0)
    return torch.stack([per_step[start:end].mean() for start, end in pairwise((0, *ends))]).sqrt()


@contextmanager
def record_inputs(forecaster: RecurrentForecaster) -> Iterator[InputRecorder]:
    """Within it, every recurrent layer's input keeps its gradient; the step itself is unchanged.

    Yields:
        The recorder, to be asked for `curves()` after `backward()`.
    """
    recorder = InputRecorder(forecaster)

    def hook(index: int) -> Any:
        def replace(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not torch.is_grad_enabled():
                return None
            return (recorder.keep(index, arguments[0]), *arguments[1:])

        return replace

    handles = [layer.register_forward_pre_hook(hook(index)) for index, layer in enumerate(forecaster.encoder.layers)]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def measure_envelope(
    forecaster: RecurrentForecaster,
    inputs: ForecastInputs,
    objective: Objective,
    lags: Sequence[int] | None = None,
    truncation_steps: int | None = None,
) -> list[LagCurve]:
    """The envelope outside of a training step; weights and their gradients are left alone.

    Args:
        forecaster: The network.
        inputs: Windows.
        objective: Loss of their forecast.
        lags: Upper ends of the bins; None = `log_spaced_lags` of the context.
        truncation_steps: As in training.

    Returns:
        One curve per layer.
    """
    with torch.enable_grad(), dropout_off(forecaster), record_inputs(forecaster) as recorder:
        loss = objective(forecaster.forward_scaled(inputs, truncation_steps))
        tensors = [part for parts in recorder.parts for part in parts]
        for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors, allow_unused=True), strict=True):
            tensor.grad = gradient
    return recorder.curves(lags, truncation_steps)
