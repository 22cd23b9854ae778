"""One step of every recurrent cell and its derivative, written by hand in numpy.

A cell sees two preactivations, split into gates along the last axis exactly as torch orders its weights,

    a = W_ih x_t + b_ih            what the input says
    b = W_hh h_{t-1} + b_hh        what the past says

and only its elementwise part is here. The matrix products are the same for every cell and stand in `through_time`.
Below, `d_h` is short for the derivative of the loss with respect to `h`, and `*` is elementwise. No autograd anywhere:
these formulas are what autograd is checked against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from models.errors import NetworkConfigError

Array = NDArray[np.float64]
# (h,) for rnn and gru, (h, c) for lstm.
State = tuple[Array, ...]
# What a step must remember for its derivative.
Saved = tuple[Array, ...]


class StepGradient(NamedTuple):
    """Where the derivative of one step goes.

    Attributes:
        from_input: Derivative with respect to `a`; goes to W_ih, b_ih and x_t.
        from_past: Derivative with respect to `b`; goes to W_hh, b_hh and h_{t-1}.
        state: What reaches the previous state directly, without passing through a weight matrix.
    """

    from_input: Float[Array, "B G"]
    from_past: Float[Array, "B G"]
    state: State


class Cell(ABC):
    """The elementwise part of a recurrent step.

    Attributes:
        num_gates: Blocks of D rows in the weights.
        num_states: Tensors that make up the state.
    """

    num_gates: int
    num_states: int = 1

    @abstractmethod
    def forward(self, a: Float[Array, "B G"], b: Float[Array, "B G"], state: State) -> tuple[State, Saved]:
        """One step.

        Args:
            a: Preactivations from the input.
            b: Preactivations from the past.
            state: The previous state, each B x D.

        Returns:
            The next state, and what `backward` needs.
        """

    @abstractmethod
    def backward(self, d_state: State, saved: Saved) -> StepGradient:
        """The chain rule for one step.

        Args:
            d_state: Derivative of the loss with respect to the next state, everything later included.
            saved: What `forward` kept.

        Returns:
            Derivatives with respect to `a`, `b` and the previous state.
        """


@final
class TanhCell(Cell):
    """Elman 1990: h' = tanh(a + b)."""

    num_gates = 1

    def forward(self, a: Float[Array, "B G"], b: Float[Array, "B G"], state: State) -> tuple[State, Saved]:
        """One step; remembers h'."""
        h_next = np.tanh(a + b)
        return (h_next,), (h_next,)

    def backward(self, d_state: State, saved: Saved) -> StepGradient:
        """tanh' = 1 - tanh^2, so d_a = d_b = d_h' * (1 - h'^2)."""
        (d_h_next,), (h_next,) = d_state, saved
        d_a = d_h_next * (1.0 - h_next**2)
        return StepGradient(d_a, d_a, (np.zeros_like(d_a),))


@final
class ReluCell(Cell):
    """Elman network with a rectifier (Le et al. 2015): h' = max(a + b, 0)."""

    num_gates = 1

    def forward(self, a: Float[Array, "B G"], b: Float[Array, "B G"], state: State) -> tuple[State, Saved]:
        """One step; remembers h'."""
        h_next = np.maximum(a + b, 0.0)
        return (h_next,), (h_next,)

    def backward(self, d_state: State, saved: Saved) -> StepGradient:
        """The derivative passes where the unit was on and stops where it was off."""
        (d_h_next,), (h_next,) = d_state, saved
        d_a = d_h_next * (h_next > 0.0)
        return StepGradient(d_a, d_a, (np.zeros_like(d_a),))


@final
class GRUCell(Cell):
    """Cho et al. 2014, with the reset gate after the matrix product as in cuDNN and torch.

    r = sigma(a_r + b_r)                reset
    z = sigma(a_z + b_z)                update: how much of the old state is kept
    n = tanh(a_n + r * b_n)             new
    h' = (1 - z) * n + z * h
    """

    num_gates = 3

    def forward(self, a: Float[Array, "B G"], b: Float[Array, "B G"], state: State) -> tuple[State, Saved]:
        """One step; remembers h, the gates and b_n."""
        (h,) = state
        (a_r, a_z, a_n), (b_r, b_z, b_n) = _gates(a, 3), _gates(b, 3)
        r, z = sigmoid(a_r + b_r), sigmoid(a_z + b_z)
        n = np.tanh(a_n + r * b_n)
        return ((1.0 - z) * n + z * h,), (h, r, z, n, b_n)

    def backward(self, d_state: State, saved: Saved) -> StepGradient:
        """Three ways back: along z * h directly, through z and n, and through r inside n."""
        (d_h_next,), (h, r, z, n, b_n) = d_state, saved
        d_a_z = d_h_next * (h - n) * z * (1.0 - z)
        d_a_n = d_h_next * (1.0 - z) * (1.0 - n**2)
        d_a_r = d_a_n * b_n * r * (1.0 - r)
        from_input = np.concatenate((d_a_r, d_a_z, d_a_n), axis=-1)
        from_past = np.concatenate((d_a_r, d_a_z, d_a_n * r), axis=-1)
        return StepGradient(from_input, from_past, (d_h_next * z,))


@final
class LSTMCell(Cell):
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000.

    i, f, o = sigma(a + b) of their rows     write, keep, read
    g = tanh(a_g + b_g)                      candidate
    c' = f * c + i * g
    h' = o * tanh(c')
    """

    num_gates = 4
    num_states = 2

    def forward(self, a: Float[Array, "B G"], b: Float[Array, "B G"], state: State) -> tuple[State, Saved]:
        """One step; remembers the old cell, the gates and tanh(c')."""
        _, c = state
        a_i, a_f, a_g, a_o = _gates(a + b, 4)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        c_next = f * c + i * g
        tanh_c = np.tanh(c_next)
        return (o * tanh_c, c_next), (c, i, f, g, o, tanh_c)

    def backward(self, d_state: State, saved: Saved) -> StepGradient:
        """The cell collects what comes through h' and what comes along the cell; d_c = d_c' * f is the long memory."""
        (d_h_next, d_c_next), (c, i, f, g, o, tanh_c) = d_state, saved
        d_c_next = d_c_next + d_h_next * o * (1.0 - tanh_c**2)
        d_a_i = d_c_next * g * i * (1.0 - i)
        d_a_f = d_c_next * c * f * (1.0 - f)
        d_a_g = d_c_next * i * (1.0 - g**2)
        d_a_o = d_h_next * tanh_c * o * (1.0 - o)
        d_a = np.concatenate((d_a_i, d_a_f, d_a_g, d_a_o), axis=-1)
        return StepGradient(d_a, d_a, (np.zeros_like(d_h_next), d_c_next * f))


@final
class MinGRUCell(Cell):
    """Feng et al. 2024: gates of the input alone; z is what is kept.

    z = sigma(a_z)
    h' = z * h + (1 - z) * a_n
    """

    num_gates = 2

    def forward(self, a: Float[Array, "B G"], b: Float[Array, "B G"], state: State) -> tuple[State, Saved]:
        """One step; remembers h, the gate and what is written."""
        (h,) = state
        a_z, a_n = _gates(a, 2)
        z = sigmoid(a_z)
        return (z * h + (1.0 - z) * a_n,), (h, z, a_n)

    def backward(self, d_state: State, saved: Saved) -> StepGradient:
        """One way back, along z * h; nothing passes through a matrix."""
        (d_h_next,), (h, z, a_n) = d_state, saved
        d_a = np.concatenate((d_h_next * (h - a_n) * z * (1.0 - z), d_h_next * (1.0 - z)), axis=-1)
        return StepGradient(d_a, np.zeros_like(d_a), (d_h_next * z,))


@final
class MinLSTMCell(Cell):
    """Feng et al. 2024: forget and input gate share out one.

    i, f = sigma(a_i), sigma(a_f)
    k = f / (f + i)
    h' = k * h + (1 - k) * a_g
    """

    num_gates = 3

    def forward(self, a: Float[Array, "B G"], b: Float[Array, "B G"], state: State) -> tuple[State, Saved]:
        """One step; remembers h, both gates, what is kept and what is written."""
        (h,) = state
        a_i, a_f, a_g = _gates(a, 3)
        i, f = sigmoid(a_i), sigmoid(a_f)
        k = f / (f + i)
        return (k * h + (1.0 - k) * a_g,), (h, i, f, k, a_g)

    def backward(self, d_state: State, saved: Saved) -> StepGradient:
        """dk/df = i / (f + i)^2 and dk/di = -f / (f + i)^2, with sigma' = sigma (1 - sigma)."""
        (d_h_next,), (h, i, f, k, a_g) = d_state, saved
        d_k = d_h_next * (h - a_g)
        d_a_i = -d_k * f / (f + i) ** 2 * i * (1.0 - i)
        d_a_f = d_k * i / (f + i) ** 2 * f * (1.0 - f)
        d_a = np.concatenate((d_a_i, d_a_f, d_h_next * (1.0 - k)), axis=-1)
        return StepGradient(d_a, np.zeros_like(d_a), (d_h_next * k,))


def build_cell(architecture: str, nonlinearity: str = "tanh") -> Cell:
    """The hand-derived cell of an architecture.

    Args:
        architecture: `rnn`, `gru`, `lstm`, `mingru` or `minlstm`.
        nonlinearity: `tanh` or `relu`; read by `rnn` alone.

    Raises:
        NetworkConfigError: If there is no such cell.
    """
    name = f"rnn {nonlinearity}" if architecture == "rnn" else architecture
    cells: dict[str, type[Cell]] = {
        "rnn tanh": TanhCell, "rnn relu": ReluCell, "gru": GRUCell, "lstm": LSTMCell, "mingru": MinGRUCell,
        "minlstm": MinLSTMCell,
    }  # fmt: skip
    if name not in cells:
        raise NetworkConfigError("cell", f"one of {', '.join(cells)}", name)
    return cells[name]()


def sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 / (1 + exp(-x)), written with tanh so that no exponential overflows."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _gates(preactivation: Float[Array, "B G"], count: int) -> list[Array]:
    return np.split(preactivation, count, axis=-1)
