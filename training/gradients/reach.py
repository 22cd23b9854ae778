"""Reach through time: how much of the loss's gradient arrives at the state, lag by lag.

The context is run in consecutive fused calls with explicit states, cut at log-spaced lags, and the gradient is kept on
the states at the cuts. The arithmetic is that of one call; all layers are measured in one pass. For an LSTM the curve
that counts is that of the cell state c: behind a shut output gate h carries nothing while the memory is intact
(Pascanu et al. 2013, 1211.5063, measured the same on a plain recurrent network).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.forecaster import ForecastInputs, RecurrentForecaster, ScaledForecast
from models.recurrent import EncoderOutput, LayerState, RecurrentEncoder
from training.gradients.lags import (
    Component,
    LagCurve,
    build_curve,
    cut_lags,
    host_norms,
    log_spaced_lags,
    update_cuts,
)
from training.gradients.trace import dropout_off, layer_names

# From a forecast to the loss that training minimises, targets already bound.
Objective = Callable[[ScaledForecast], Float[Tensor, ""]]
COMPONENTS: tuple[Component, ...] = ("h", "c")


class SegmentedOutput(NamedTuple):
    """The encoder's output, and the states at the cuts of every layer.

    Attributes:
        encoded: What `RecurrentEncoder.forward` returns.
        cuts: In updates before the end, decreasing.
        boundaries: Per layer, the state at each of `cuts`.
    """

    encoded: EncoderOutput
    cuts: tuple[int, ...]
    boundaries: list[list[LayerState]]


def run_segments(
    encoder: RecurrentEncoder,
    inputs: Float[Tensor, "B L C"],
    cuts: Sequence[int],
    states: list[LayerState] | None = None,
) -> SegmentedOutput:
    """`RecurrentEncoder.forward` in segments.

    Args:
        encoder: Its layers.
        inputs: Channels per update.
        cuts: Where to cut, in updates before the end; those longer than the inputs are left out.
        states: Initial state per layer; zeros if None.

    Returns:
        The same output, and the states at the cuts; they require gradients even where no weight does.
    """
    states = encoder.initial_states(inputs) if states is None else states
    cuts = tuple(sorted((cut for cut in set(cuts) if 1 <= cut <= inputs.shape[1]), reverse=True))
    boundaries: list[list[LayerState]] = []
    final: list[LayerState] = []
    for index, (layer, state) in enumerate(zip(encoder.layers, states, strict=True)):
        if index > 0:
            inputs = encoder.dropout(inputs)
        inputs, last, at_cuts = run_layer_segments(layer, inputs, state, cuts)
        boundaries.append(at_cuts)
        final.append(last)
    return SegmentedOutput(EncoderOutput(inputs, final), cuts, boundaries)


def run_layer_segments(
    layer: nn.Module, inputs: Float[Tensor, "B L C"], state: LayerState, cuts: Sequence[int]
) -> tuple[Float[Tensor, "B L D"], LayerState, list[LayerState]]:
    """One fused layer in segments.

    Args:
        layer: A single-layer module.
        inputs: What it reads.
        state: Its initial state.
        cuts: Decreasing lags, none longer than the inputs.

    Returns:
        Outputs at every step, the final state, and the state at each cut.
    """
    length = inputs.shape[1]
    state = tuple(part.detach().requires_grad_() if not part.requires_grad else part for part in state)
    outputs: list[Tensor] = []
    at_cuts: list[LayerState] = []
    start = 0
    for lag in (*cuts, 0):
        if length - lag > start:
            segment, last = layer(inputs[:, start : length - lag], state if len(state) > 1 else state[0])
            outputs.append(segment)
            state = last if isinstance(last, tuple) else (last,)
            start = length - lag
        if lag:
            at_cuts.append(state)
    # Joined with time in front, as a fused layer writes it: dropout draws its mask in the order of memory.
    return torch.cat([segment.transpose(0, 1) for segment in outputs]).transpose(0, 1), state, at_cuts


class BoundaryRecorder:
    """Stands in for the encoder's forward pass and keeps the states at the cuts of its last run.

    Args:
        forecaster: Whose encoder it runs.
        lags: Where to cut.
    """

    def __init__(self, forecaster: RecurrentForecaster, lags: Sequence[int]) -> None:
        self.names = layer_names(forecaster)
        self.encoder, self.config = forecaster.encoder, forecaster.config
        self.wanted = update_cuts(lags, self.config.steps_per_update, self.config.num_updates)
        self.lags: tuple[int, ...] = ()
        self.cut_steps: int | None = None
        self.boundaries: list[list[LayerState]] = []

    def forward(
        self,
        inputs: Float[Tensor, "B L C"],
        states: list[LayerState] | None = None,
        truncation_steps: int | None = None,
    ) -> EncoderOutput:
        """As `RecurrentEncoder.forward`; under truncation the cuts lie inside of what the gradient may see."""
        self.cut_steps = None
        before: EncoderOutput | None = None
        if truncation_steps is not None and truncation_steps < inputs.shape[1]:
            self.cut_steps = truncation_steps * self.config.steps_per_update
            with torch.no_grad():
                before = RecurrentEncoder.forward(self.encoder, inputs[:, :-truncation_steps], states)
            inputs, states = inputs[:, -truncation_steps:], before.states
        encoded, cuts, self.boundaries = run_segments(self.encoder, inputs, self.wanted, states)
        self.lags = cut_lags(cuts, self.config.steps_per_update, self.config.recurrent_steps)
        if torch.is_grad_enabled():
            for part in self.tensors():
                part.retain_grad()
        if before is None:
            return encoded
        return encoded._replace(outputs=torch.cat((before.outputs, encoded.outputs), dim=1))

    def tensors(self) -> list[Tensor]:
        """States at the cuts, layer by layer, lag by lag, h before c."""
        return [part for layer in self.boundaries for state in layer for part in state]

    def curves(self, gradients: Sequence[Tensor | None] | None = None) -> list[LagCurve]:
        """One curve per layer and component, in one copy to the host.

        Args:
            gradients: Of `tensors()`; None takes those that a `backward()` left there.

        Returns:
            `h` of every layer, and `c` of an LSTM's.
        """
        tensors = self.tensors()
        norms = iter(host_norms([tensor.grad for tensor in tensors] if gradients is None else gradients))
        curves: list[LagCurve] = []
        for name, states in zip(self.names, self.boundaries, strict=True):
            table = [[next(norms) for _ in state] for state in states]
            for component, column in zip(COMPONENTS, zip(*reversed(table), strict=True), strict=False):
                dtype = tensors[0].dtype
                curves.append(build_curve(name, component, "loss", self.lags[::-1], column, dtype, self.cut_steps))
        return curves


@contextmanager
def record_boundaries(forecaster: RecurrentForecaster, lags: Sequence[int]) -> Iterator[BoundaryRecorder]:
    """Within it, the network's forward pass runs in segments; after `backward()` the recorder has the curves.

    A training step inside of it is the same step, measured on the way.

    Args:
        forecaster: The network.
        lags: Where to cut.

    Yields:
        The recorder.
    """
    recorder = BoundaryRecorder(forecaster, lags)
    # An instance attribute hides the class's method for as long as it is there; the module tree stays as it is.
    forecaster.encoder.forward = recorder.forward  # type: ignore[method-assign]
    try:
        yield recorder
    finally:
        del forecaster.encoder.forward


def measure_reach(
    forecaster: RecurrentForecaster,
    inputs: ForecastInputs,
    objective: Objective,
    lags: Sequence[int] | None = None,
    truncation_steps: int | None = None,
) -> list[LagCurve]:
    """Gradient of the loss with respect to the states, lag by lag; weights and their gradients are left alone.

    Args:
        forecaster: The network.
        inputs: Windows.
        objective: Loss of their forecast.
        lags: Where to cut; None = `log_spaced_lags` of the context.
        truncation_steps: As in training.

    Returns:
        Per layer the curve of `h`, and for an LSTM that of `c`, which is the one that counts.
    """
    lags = log_spaced_lags(forecaster.config.recurrent_steps) if lags is None else lags
    with torch.enable_grad(), dropout_off(forecaster), record_boundaries(forecaster, lags) as recorder:
        loss = objective(forecaster.forward_scaled(inputs, truncation_steps))
        gradients = torch.autograd.grad(loss, recorder.tensors(), allow_unused=True)
    return recorder.curves(gradients)
