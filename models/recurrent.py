"""The recurrent encoder: a stack of single fused layers, each with its own explicit initial state.

One module per layer (instead of `num_layers=n` in one) costs nothing on a CPU and makes every layer's gradient, state
and boundary visible by name.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import DilatedConfig, DilatedRNNConfig, RecurrentConfig, RNNConfig
from models.dilated import DilatedGRU, DilatedLSTM, DilatedRNN, layer_dilation
from models.initialization import RecurrentLayer, initialize_layer
from models.minimal import MinGRU, MinLSTM

# (h, c) for lstm, (h,) for the others; each 1 x B x D, of a dilated layer the last d states, oldest first: d x B x D.
LayerState = tuple[Tensor, ...]


class EncoderOutput(NamedTuple):
    """What the encoder knows at the end of the context.

    Attributes:
        outputs: Hidden state of the top layer at every step.
        states: Final state of every layer.
    """

    outputs: Float[Tensor, "B L D"]
    states: list[LayerState]


class RecurrentEncoder(nn.Module):
    """A stack of `rnn`, `gru` or `lstm` layers over the context.

    Args:
        config: Cell, sizes and initialization.
        input_size: Channels per update.
    """

    def __init__(self, config: RecurrentConfig, input_size: int) -> None:
        super().__init__()
        self.cell = config.cell
        self.hidden_size = config.hidden_size
        self.layers = nn.ModuleList()
        for index in range(config.num_layers):
            layer = _build_layer(config, input_size if index == 0 else config.hidden_size, config.layer_dilations[index])
            initialize_layer(layer, config)
            self.layers.append(layer)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        inputs: Float[Tensor, "B L C"],
        states: list[LayerState] | None = None,
        truncation_steps: int | None = None,
    ) -> EncoderOutput:
        """Run the context through every layer.

        Args:
            inputs: Channels per step, oldest first.
            states: Initial state per layer; zeros if None.
            truncation_steps: Let no gradient pass further back than this many steps before the end (truncated
                backpropagation through time, Williams & Peng 1990); the values are the same.

        Returns:
            Outputs of the top layer and the final state of every layer.
        """
        if truncation_steps is not None and truncation_steps < inputs.shape[1]:
            return self._forward_truncated(inputs, states, truncation_steps)
        return self.advance(inputs, self.initial_states(inputs) if states is None else states)

    def advance(self, inputs: Float[Tensor, "B L C"], states: list[LayerState]) -> EncoderOutput:
        """Go on from states. Instruments watch `forward`, the pass over the context; a decoder's own steps are no part of it.

        Args:
            inputs: Channels per step, oldest first.
            states: Per layer.

        Returns:
            Outputs of the top layer and the final state of every layer.
        """
        final: list[LayerState] = []
        for index, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            if index > 0:
                inputs = self.dropout(inputs)
            inputs, last = layer(inputs, state if len(state) > 1 else state[0])
            final.append(last if isinstance(last, tuple) else (last,))
        return EncoderOutput(inputs, final)

    def initial_states(self, inputs: Float[Tensor, "B L C"]) -> list[LayerState]:
        """Zero states, one per layer, with the inputs' dtype and device."""
        count = 2 if self.cell == "lstm" else 1
        batch = inputs.shape[0]
        return [(inputs.new_zeros(layer_dilation(layer), batch, self.hidden_size),) * count for layer in self.layers]

    def _forward_truncated(
        self, inputs: Float[Tensor, "B L C"], states: list[LayerState] | None, truncation_steps: int
    ) -> EncoderOutput:
        with torch.no_grad():
            before = self(inputs[:, :-truncation_steps], states)
        after: EncoderOutput = self(inputs[:, -truncation_steps:], before.states)
        return EncoderOutput(torch.cat((before.outputs, after.outputs), dim=1), after.states)


def _build_layer(config: RecurrentConfig, input_size: int, dilation: int) -> RecurrentLayer:
    if isinstance(config, DilatedConfig):
        return _build_dilated(config, input_size, dilation)
    if isinstance(config, RNNConfig):
        return nn.RNN(input_size, config.hidden_size, nonlinearity=config.nonlinearity, batch_first=True)
    if config.cell == "mingru":
        return MinGRU(input_size, config.hidden_size)
    if config.cell == "minlstm":
        return MinLSTM(input_size, config.hidden_size)
    if config.cell == "gru":
        return nn.GRU(input_size, config.hidden_size, batch_first=True)
    return nn.LSTM(input_size, config.hidden_size, batch_first=True)


def _build_dilated(config: DilatedConfig, input_size: int, dilation: int) -> RecurrentLayer:
    if isinstance(config, DilatedRNNConfig):
        return DilatedRNN(input_size, config.hidden_size, dilation, nonlinearity=config.nonlinearity)
    kind = DilatedGRU if config.cell == "gru" else DilatedLSTM
    return kind(input_size, config.hidden_size, dilation)
