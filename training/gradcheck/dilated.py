"""Backpropagation through time of dilated layers by hand: d chains that share their weights, one plain layer each.

Chain k holds the steps k, k + d, k + 2 d, ... Nothing passes from one chain to another within a layer, so that the
derivative of every chain is that of a plain layer, and those of the weights are added up. A plain layer is the case d = 1.
States carry the axis that torch gives them in front: the last d steps, oldest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from training.gradcheck.cells import Array, Cell, State
from training.gradcheck.through_time import (
    LayerGradients,
    LayerTape,
    LayerWeights,
    StackGradients,
    backward_layer,
    forward_layer,
)


class DilatedTape(NamedTuple):
    """What the forward pass of one layer writes down.

    Attributes:
        chains: A tape per chain.
        outputs: Hidden state after every step.
        final: State after each of the last d steps, "d B D".
    """

    chains: list[LayerTape]
    outputs: Float[Array, "B L D"]
    final: State


def forward_dilated_stack(
    cell: Cell,
    weights: Sequence[LayerWeights],
    inputs: Float[Array, "B L C"],
    initial: Sequence[State],
    dilations: Sequence[int],
) -> list[DilatedTape]:
    """Run a stack of layers, each reading the outputs of the one below.

    Args:
        cell: The elementwise part, the same in every layer.
        weights: Per layer, lowest first.
        inputs: What the lowest layer reads, at least as many steps as the largest dilation.
        initial: Per layer, each part "d B D".
        dilations: Per layer.
    """
    tapes: list[DilatedTape] = []
    for layer, state, dilation in zip(weights, initial, dilations, strict=True):
        tapes.append(_forward(cell, layer, inputs, state, dilation))
        inputs = tapes[-1].outputs
    return tapes


def backward_dilated_stack(
    cell: Cell,
    weights: Sequence[LayerWeights],
    tapes: Sequence[DilatedTape],
    d_outputs: Float[Array, "B L D"],
    d_final: Sequence[State],
) -> StackGradients:
    """Run a stack backwards, top layer first.

    Args:
        cell: The elementwise part.
        weights: Per layer, lowest first.
        tapes: What `forward_dilated_stack` returned.
        d_outputs: Derivative with respect to the top layer's outputs.
        d_final: Derivative with respect to every layer's final states, besides what they do through the outputs.

    Returns:
        Derivatives with respect to inputs, initial states ("d B D") and weights.
    """
    layers: list[LayerGradients] = []
    for layer, tape, d_state in reversed(list(zip(weights, tapes, d_final, strict=True))):
        layers.append(_backward(cell, layer, tape, d_outputs, d_state))
        d_outputs = layers[-1].inputs
    layers.reverse()
    return StackGradients(d_outputs, [layer.initial for layer in layers], [layer.weights for layer in layers])


def _forward(cell: Cell, weights: LayerWeights, inputs: Array, initial: State, dilation: int) -> DilatedTape:
    chains = [
        forward_layer(cell, weights, inputs[:, chain::dilation], tuple(part[chain] for part in initial))
        for chain in range(dilation)
    ]
    outputs = np.zeros((*inputs.shape[:2], chains[0].outputs.shape[-1]))
    for chain, tape in enumerate(chains):
        outputs[:, chain::dilation] = tape.outputs
    newest = [chains[chain].final for chain in _last_chains(inputs.shape[1], dilation)]
    return DilatedTape(chains, outputs, tuple(np.stack(parts) for parts in zip(*newest, strict=True)))


def _backward(cell: Cell, weights: LayerWeights, tape: DilatedTape, d_outputs: Array, d_final: State) -> LayerGradients:
    dilation, length = len(tape.chains), d_outputs.shape[1]
    place = {chain: index for index, chain in enumerate(_last_chains(length, dilation))}
    gradients = [
        backward_layer(cell, weights, each, d_outputs[:, chain::dilation], tuple(part[place[chain]] for part in d_final))
        for chain, each in enumerate(tape.chains)
    ]
    d_inputs = np.zeros((*d_outputs.shape[:2], gradients[0].inputs.shape[-1]))
    for chain, gradient in enumerate(gradients):
        d_inputs[:, chain::dilation] = gradient.inputs
    d_initial = tuple(np.stack(parts) for parts in zip(*(gradient.initial for gradient in gradients), strict=True))
    d_weights = LayerWeights(*(sum(parts) for parts in zip(*(gradient.weights for gradient in gradients), strict=True)))
    return LayerGradients(d_inputs, d_initial, d_weights)


def _last_chains(length: int, dilation: int) -> list[int]:
    """The chains of the last d steps, oldest step first."""
    return [step % dilation for step in range(length - dilation, length)]
