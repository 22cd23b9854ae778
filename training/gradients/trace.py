"""What went into and out of every recurrent layer, for the instruments that recompute what a fused kernel hides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.dilated import layer_dilation
from models.forecaster import ForecastInputs, RecurrentForecaster
from models.initialization import RecurrentLayer
from models.recurrent import LayerState


class LayerTrace(NamedTuple):
    """One recurrent layer's pass over the context, detached.

    Attributes:
        name: Of the layer, such as `lstm.0`.
        layer: The fused module itself.
        inputs: What it read.
        outputs: Its hidden state after every step.
        initial: Its state before the first step.
        steps_per_update: Context steps that one of its updates reads.
        dilation: Updates between a state and the next that follows from it.
    """

    name: str
    layer: RecurrentLayer
    inputs: Float[Tensor, "B L C"]
    outputs: Float[Tensor, "B L D"]
    initial: LayerState
    steps_per_update: int = 1
    dilation: int = 1

    def previous(self) -> Float[Tensor, "B L D"]:
        """The hidden state that every update starts from."""
        return torch.cat((self.initial[0].transpose(0, 1), self.outputs), dim=1)[:, : self.outputs.shape[1]]


def layer_names(forecaster: RecurrentForecaster) -> tuple[str, ...]:
    """Names of the recurrent layers, from the input on."""
    return tuple(forecaster.recurrent_layers())


@contextmanager
def dropout_off(forecaster: nn.Module) -> Iterator[None]:
    """Switch dropout off, and only that, so that measuring neither adds noise nor consumes the run's random numbers.

    The recurrent layers stay in training mode: cuDNN has no backward pass outside of it.
    """
    active = [module for module in forecaster.modules() if isinstance(module, nn.Dropout) and module.training]
    for module in active:
        module.eval()
    try:
        yield
    finally:
        for module in active:
            module.train()


@torch.no_grad()
def trace_layers(forecaster: RecurrentForecaster, inputs: ForecastInputs) -> list[LayerTrace]:
    """Run the network forward, without dropout, and keep what every recurrent layer read and wrote.

    Args:
        forecaster: The network.
        inputs: Windows.

    Returns:
        One trace per layer, from the input on.
    """
    traces: list[LayerTrace] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, Tensor | LayerState], result: tuple[Tensor, object]) -> None:
        if len(traces) == len(forecaster.encoder.layers):
            return  # a recursive decoder goes on with the same layers
        state = arguments[1]
        name = layer_names(forecaster)[len(traces)]
        initial = state if isinstance(state, tuple) else (state,)
        layer, unit = cast("RecurrentLayer", module), forecaster.config.steps_per_update
        traces.append(LayerTrace(name, layer, arguments[0], result[0], initial, unit, layer_dilation(module)))

    handles = [layer.register_forward_hook(keep) for layer in forecaster.encoder.layers]
    try:
        with dropout_off(forecaster):
            forecaster.forward_scaled(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return traces
