"""Minimal recurrent layers (Feng et al. 2024, 2410.01201): gates that do not look at the state.

Without the state in the gates a layer is a linear recurrence, `h_t = keep_t * h_{t-1} + write_t`, whose steps can be
joined in any order: all states of a context come out of log2(L) passes over it instead of L dependent steps, forward
and backward. Nothing can explode, since `keep` lies between 0 and 1, and what vanishes is the product of the gates alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class MinimalLayer(nn.Module, ABC):
    """A layer whose weights torch would name `weight_ih_l0` and `bias_ih_l0`; there is none from state to gate.

    Args:
        input_size: Channels per update (C).
        hidden_size: Units (D).
        num_gates: Blocks of D rows in the weights (G).
    """

    def __init__(self, input_size: int, hidden_size: int, num_gates: int) -> None:
        super().__init__()
        self.hidden_size, self.num_gates = hidden_size, num_gates
        self.weight_ih_l0 = nn.Parameter(torch.empty(num_gates * hidden_size, input_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(num_gates * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(D), as torch's own recurrent layers."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @abstractmethod
    def recurrence(self, preactivations: Float[Tensor, "*shape GD"]) -> tuple[Tensor, Tensor]:
        """Share of the state that every step keeps, and what it writes."""

    def forward(
        self, inputs: Float[Tensor, "B L C"], state: Float[Tensor, "1 B D"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "1 B D"]]:
        """All states of the inputs, and the last one, as torch's fused layers return them."""
        keep, write = self.recurrence(functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0))
        outputs = linear_recurrence(keep, write, state[0].to(write.dtype))
        return outputs, outputs[:, -1][None]


@final
class MinGRU(MinimalLayer):
    """`h_t = z_t * h_{t-1} + (1 - z_t) * n_t`, z the sigmoid of its rows, n linear.

    z is what is kept, as in torch's GRU and unlike in the paper, so that a long memory has the same sign everywhere.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, num_gates=2)

    def recurrence(self, preactivations: Float[Tensor, "*shape 2D"]) -> tuple[Tensor, Tensor]:
        """Rows update, new."""
        update, new = preactivations.chunk(2, dim=-1)
        return torch.sigmoid(update), torch.sigmoid(-update) * new


@final
class MinLSTM(MinimalLayer):
    """`c_t = f / (f + i) * c_{t-1} + i / (f + i) * g_t`, i and f the sigmoids of their rows, g linear; the state is h."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, num_gates=3)

    def recurrence(self, preactivations: Float[Tensor, "*shape 3D"]) -> tuple[Tensor, Tensor]:
        """Rows input, forget, cell."""
        write, forget, cell = preactivations.chunk(3, dim=-1)
        keep = keep_logit(write, forget)
        return torch.sigmoid(keep), torch.sigmoid(-keep) * cell


def keep_logit(write: Float[Tensor, "*shape"], forget: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What a minimal LSTM's share f / (f + i) is the sigmoid of: log f - log i, without overflow."""
    return functional.logsigmoid(forget) - functional.logsigmoid(write)


def linear_recurrence(
    keep: Float[Tensor, "B L D"], write: Float[Tensor, "B L D"], initial: Float[Tensor, "B D"]
) -> Float[Tensor, "B L D"]:
    """States of `h_t = keep_t * h_{t-1} + write_t` from `initial`, by a parallel scan forward and backward.

    Args:
        keep: Factor on the state before every step.
        write: What every step adds.
        initial: State before the first step.
    """
    states: Tensor = _LinearRecurrence.apply(keep, write, initial)  # type: ignore[no-untyped-call]
    return states


class _LinearRecurrence(torch.autograd.Function):
    """The derivative of the recurrence is the same recurrence from the end: d_t = arriving_t + keep_{t+1} * d_{t+1}."""

    @staticmethod
    def forward(ctx: Any, keep: Tensor, write: Tensor, initial: Tensor) -> Tensor:
        first = torch.addcmul(write[:, :1], keep[:, :1], initial[:, None])
        states = _scan(keep, torch.cat((first, write[:, 1:]), dim=1))
        ctx.save_for_backward(keep, states, initial)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep, states, initial = ctx.saved_tensors
        later = torch.cat((keep[:, 1:], torch.zeros_like(keep[:, :1])), dim=1)
        d_states = _scan(later.flip(1), arriving.flip(1)).flip(1)
        previous = torch.cat((initial[:, None], states[:, :-1]), dim=1)
        return d_states * previous, d_states, d_states[:, 0] * keep[:, 0]


def _scan(keep: Float[Tensor, "B L D"], write: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """States from zero: after the pass with span s every step holds what the last 2 s steps do (Hillis & Steele 1986)."""
    span, length = 1, keep.shape[1]
    while span < length:
        write = torch.cat((write[:, :span], torch.addcmul(write[:, span:], keep[:, span:], write[:, :-span])), dim=1)
        keep = torch.cat((keep[:, :span], keep[:, span:] * keep[:, :-span]), dim=1)
        span *= 2
    return write
