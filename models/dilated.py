"""Dilated recurrent layers (Chang et al. 2017, 1710.02224): step t goes on from the state of step t - d, not t - 1.

A layer of dilation d is d recurrences beside each other that share their weights, and each makes a d-th of the updates: a
gradient that fades by half per update is still there d times as far back, and d times as many windows are in every
matrix product. Stacked with dilations 1, 2, 4, ... the lowest layer sees every change and the highest the long run.
"""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DilatedLayer(nn.RNNBase):
    """Mixed into one of torch's fused layers, whose weights and kernel it uses as they are.

    The state before a step is that of the d steps before it, oldest first: each of its parts is d x B x D.

    Args:
        input_size: Channels per step (C).
        hidden_size: Units (D).
        dilation: Steps between a state and the next that follows from it (d).
        settings: Of the fused layer.
    """

    def __init__(self, input_size: int, hidden_size: int, dilation: int, **settings: Any) -> None:
        # Time in front: then the chains lie beside each other in memory as they are, and nothing is moved.
        super().__init__(input_size, hidden_size, **settings)  # type: ignore[arg-type]
        self.dilation = dilation

    def forward(
        self, inputs: Float[Tensor, "B L C"], state: Tensor | tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "B L D"], Tensor | tuple[Tensor, ...]]:
        """All outputs, and the states of the last d steps.

        Args:
            inputs: Channels per step, oldest first.
            state: Of the d steps before, oldest first; h, or h and c.
        """
        parts = state if isinstance(state, tuple) else (state,)
        steps = inputs.transpose(0, 1)
        rounds, rest = divmod(int(steps.shape[0]), self.dilation)
        outputs: list[Tensor] = []
        if rounds:
            first, parts = self._advance(steps[: rounds * self.dilation], parts, self.dilation)
            outputs.append(first)
        if rest:  # the last round is not whole: the chains whose turn it is take one step
            last, parts = self._advance(steps[rounds * self.dilation :], parts, rest)
            outputs.append(last)
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return joined.transpose(0, 1), parts if isinstance(state, tuple) else parts[0]

    def _advance(
        self, steps: Float[Tensor, "L B C"], parts: tuple[Tensor, ...], chains: int
    ) -> tuple[Float[Tensor, "L B D"], tuple[Tensor, ...]]:
        """Let the first `chains` chains take turns; L is a multiple of their number."""
        batch = steps.shape[1]
        together = tuple(part[:chains].reshape(1, chains * batch, self.hidden_size) for part in parts)
        turns = steps.reshape(-1, chains * batch, steps.shape[2])
        outputs, last = super().forward(turns, together if len(together) > 1 else together[0])
        new = last if isinstance(last, tuple) else (last,)
        queues = tuple(
            torch.cat((part[chains:], after.reshape(chains, batch, self.hidden_size)))
            for part, after in zip(parts, new, strict=True)
        )
        return outputs.reshape(-1, batch, self.hidden_size), queues


@final
class DilatedRNN(DilatedLayer, nn.RNN):  # type: ignore[misc]  # torch annotates no state
    """`h_t = tanh(W_ih x_t + W_hh h_{t-d} + b)`, or relu."""


@final
class DilatedGRU(DilatedLayer, nn.GRU):  # type: ignore[misc]  # torch annotates no state
    """Gated recurrent unit on the state d steps before."""


@final
class DilatedLSTM(DilatedLayer, nn.LSTM):  # type: ignore[misc]  # torch annotates no state
    """Long short-term memory on the hidden and cell state d steps before."""


def layer_dilation(layer: nn.Module) -> int:
    """Steps between a state of a layer and the next that follows from it: 1 for every layer but a dilated one."""
    return layer.dilation if isinstance(layer, DilatedLayer) else 1


def doubling_dilations(num_layers: int, context_length: int) -> tuple[int, ...]:
    """1, 2, 4, ..., one per layer from the input on, all of them shorter than the context."""
    longest = 1 << max(context_length - 1, 1).bit_length() - 1
    return tuple(min(1 << index, longest) for index in range(num_layers))
