"""Backpropagation through time by hand: a stack of layers, forward with a tape, backward along it.

The forward pass writes down per step what the derivative will need. The backward pass walks the tape from the last step
to the first: the derivative that arrives at step t is what its own output is told (the loss, or the layer above) plus
what step t+1 sends back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from training.gradcheck.cells import Array, Cell, Saved, State


class LayerWeights(NamedTuple):
    """Weights of one layer, in torch's layout: gates stacked along the rows. Also the shape of their gradients."""

    weight_ih: Float[Array, "G C"]
    weight_hh: Float[Array, "G D"]
    bias_ih: Float[Array, " G"]
    bias_hh: Float[Array, " G"]


class LayerTape(NamedTuple):
    """What the forward pass of one layer writes down.

    Attributes:
        inputs: What the layer read.
        previous: Hidden state before every step.
        saved: What the cell kept, per step.
        outputs: Hidden state after every step.
        final: State after the last step.
    """

    inputs: Float[Array, "B L C"]
    previous: Float[Array, "B L D"]
    saved: list[Saved]
    outputs: Float[Array, "B L D"]
    final: State


class LayerGradients(NamedTuple):
    """Derivatives of a scalar with respect to everything that goes into a layer.

    Attributes:
        inputs: With respect to every input.
        initial: With respect to the initial state.
        weights: With respect to the weights, summed over windows and steps.
    """

    inputs: Float[Array, "B L C"]
    initial: State
    weights: LayerWeights


class StackGradients(NamedTuple):
    """Derivatives with respect to everything that goes into a stack.

    Attributes:
        inputs: With respect to the inputs of the lowest layer.
        initial: With respect to the initial state of every layer.
        weights: With respect to the weights of every layer.
    """

    inputs: Float[Array, "B L C"]
    initial: list[State]
    weights: list[LayerWeights]


def forward_layer(cell: Cell, weights: LayerWeights, inputs: Float[Array, "B L C"], initial: State) -> LayerTape:
    """Run one layer over all steps.

    Args:
        cell: Its elementwise part.
        weights: Its weights.
        inputs: What it reads, oldest first.
        initial: State before the first step, each B x D.

    Returns:
        Outputs and final state, with all that `backward_layer` needs.
    """
    state, previous, saved, outputs = initial, [], [], []
    for t in range(inputs.shape[1]):
        a = inputs[:, t] @ weights.weight_ih.T + weights.bias_ih
        b = state[0] @ weights.weight_hh.T + weights.bias_hh
        previous.append(state[0])
        state, kept = cell.forward(a, b, state)
        saved.append(kept)
        outputs.append(state[0])
    return LayerTape(inputs, np.stack(previous, axis=1), saved, np.stack(outputs, axis=1), state)


def backward_layer(
    cell: Cell, weights: LayerWeights, tape: LayerTape, d_outputs: Float[Array, "B L D"], d_final: State
) -> LayerGradients:
    """Run one layer backwards.

    Args:
        cell: Its elementwise part.
        weights: Its weights.
        tape: What the forward pass wrote down.
        d_outputs: Derivative of the scalar with respect to the output of every step.
        d_final: Derivative with respect to the final state, besides what it does through the outputs.

    Returns:
        Derivatives with respect to inputs, initial state and weights.
    """
    d_inputs = np.zeros_like(tape.inputs)
    d_weights = LayerWeights(*(np.zeros_like(weight) for weight in weights))
    d_state = d_final
    for t in reversed(range(tape.inputs.shape[1])):
        d_state = (d_state[0] + d_outputs[:, t], *d_state[1:])
        step = cell.backward(d_state, tape.saved[t])
        d_inputs[:, t] = step.from_input @ weights.weight_ih
        # The one line that makes gradients vanish or explode: every step back multiplies by W_hh once more.
        d_state = (step.state[0] + step.from_past @ weights.weight_hh, *step.state[1:])
        d_weights.weight_ih[...] += step.from_input.T @ tape.inputs[:, t]
        d_weights.weight_hh[...] += step.from_past.T @ tape.previous[:, t]
        d_weights.bias_ih[...] += step.from_input.sum(axis=0)
        d_weights.bias_hh[...] += step.from_past.sum(axis=0)
    return LayerGradients(d_inputs, d_state, d_weights)


def forward_stack(
    cell: Cell, weights: Sequence[LayerWeights], inputs: Float[Array, "B L C"], initial: Sequence[State]
) -> list[LayerTape]:
    """Run a stack of layers, each reading the outputs of the one below.

    Args:
        cell: The elementwise part, the same in every layer.
        weights: Per layer, lowest first.
        inputs: What the lowest layer reads.
        initial: Initial state per layer.

    Returns:
        One tape per layer; the last one holds the stack's outputs.
    """
    tapes: list[LayerTape] = []
    for layer_weights, state in zip(weights, initial, strict=True):
        tapes.append(forward_layer(cell, layer_weights, inputs, state))
        inputs = tapes[-1].outputs
    return tapes


def backward_stack(
    cell: Cell,
    weights: Sequence[LayerWeights],
    tapes: Sequence[LayerTape],
    d_outputs: Float[Array, "B L D"],
    d_final: Sequence[State],
) -> StackGradients:
    """Run a stack backwards, top layer first; a layer's `inputs` gradient is the one below's `d_outputs`.

    Args:
        cell: The elementwise part.
        weights: Per layer, lowest first.
        tapes: What `forward_stack` returned.
        d_outputs: Derivative with respect to the top layer's outputs.
        d_final: Derivative with respect to every layer's final state, besides what it does through the outputs.

    Returns:
        Derivatives with respect to inputs, initial states and weights.
    """
    layers: list[LayerGradients] = []
    for layer_weights, tape, d_state in reversed(list(zip(weights, tapes, d_final, strict=True))):
        layers.append(backward_layer(cell, layer_weights, tape, d_outputs, d_state))
        d_outputs = layers[-1].inputs
    layers.reverse()
    return StackGradients(d_outputs, [layer.initial for layer in layers], [layer.weights for layer in layers])
