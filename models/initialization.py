"""How the recurrence starts: what decides how far back a gradient reaches before the first step.

Biases come in pairs in torch (`bias_ih`, `bias_hh`); only their sum matters, so the second is set to zero here.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import MINIMAL_CELLS, InitializationName, RecurrentConfig
from models.dilated import layer_dilation
from models.errors import NetworkConfigError
from models.minimal import MinimalLayer

RecurrentLayer = nn.RNN | nn.GRU | nn.LSTM | MinimalLayer

# Order of the gates along the rows of torch's weight_ih and weight_hh.
GATES: dict[str, tuple[str, ...]] = {
    "rnn": (),
    "gru": ("reset", "update", "new"),
    "lstm": ("input", "forget", "cell", "output"),
    "mingru": ("update", "new"),
    "minlstm": ("input", "forget", "cell"),
}
# The gate that keeps the state: open means long memory.
KEEP_GATE = {"gru": "update", "lstm": "forget", "mingru": "update", "minlstm": "forget"}
ALLOWED: dict[str, tuple[InitializationName, ...]] = {
    "rnn": ("torch", "orthogonal", "identity"),
    "gru": ("torch", "orthogonal", "forget_bias", "chrono"),
    "lstm": ("torch", "orthogonal", "forget_bias", "chrono"),
}
ALLOWED["segrnn"] = ALLOWED["gru"]
ALLOWED |= {f"dilated_{cell}": ALLOWED[cell] for cell in ("rnn", "gru", "lstm")}
# There is no recurrent matrix that could be orthogonal.
ALLOWED["mingru"] = ALLOWED["minlstm"] = ("torch", "forget_bias", "chrono")


def initialize_layer(layer: RecurrentLayer, config: RecurrentConfig) -> None:
    """Set the weights of one recurrent layer, in place, from the global torch generator.

    - `torch`: uniform in +-1/sqrt(D) (torch's default, from LeCun et al. 1998).
    - `orthogonal`: every recurrent matrix orthogonal, biases zero (Saxe et al. 2014, 1312.6120; Vorontsov et al. 2017).
    - `forget_bias`: torch, and the keep gate's bias at 1 (Jozefowicz et al. 2015).
    - `chrono`: keep gate bias log U(1, L-1) over L updates, input gate its negative: time constants spread over the context
      (Tallec & Ollivier 2018, 1804.11188); a dilated layer makes as many fewer updates as its dilation says.
    - `identity`: recurrent matrix the identity, biases zero (Le et al. 2015, 1504.00941).

    Args:
        layer: A single fused layer.
        config: Carries the cell, `initialization`, `forget_bias`, `init_gain` and the number of updates.

    Raises:
        NetworkConfigError: If the initialization does not exist for the architecture.
    """
    cell = config.cell
    validate_initialization(cell, config.initialization, config.forget_bias, config.init_gain)
    layer.reset_parameters()
    with torch.no_grad():
        if config.initialization == "orthogonal":
            _orthogonal(layer)
        elif config.initialization == "identity":
            _zero_biases(layer)
            nn.init.eye_(layer_weights(layer).weight_hh)
        elif config.initialization == "forget_bias":
            _set_gate_bias(layer, cell, KEEP_GATE[cell], torch.ones(layer.hidden_size))
        elif config.initialization == "chrono":
            _chrono(layer, cell, -(-config.num_updates // layer_dilation(layer)))
        if config.init_gain is not None:
            layer_weights(layer).weight_hh.mul_(config.init_gain)
        if config.forget_bias is not None:
            bias = torch.full((layer.hidden_size,), config.forget_bias)
            _set_gate_bias(layer, cell, KEEP_GATE[cell], bias)


def validate_initialization(
    architecture: str, initialization: InitializationName, forget_bias: float | None, init_gain: float | None
) -> None:
    """Refuse an initialization that needs a gate or a matrix the architecture does not have.

    Raises:
        NetworkConfigError: Naming the possible ones.
    """
    if initialization not in ALLOWED[architecture]:
        raise NetworkConfigError(
            "model.initialization", f"one of {', '.join(ALLOWED[architecture])} for {architecture}", initialization
        )
    if forget_bias is not None and architecture not in KEEP_GATE:
        raise NetworkConfigError(
            "model.forget_bias", "null for rnn, which has no gates", str(forget_bias), "Use lstm or gru."
        )
    if init_gain is not None and architecture in MINIMAL_CELLS:
        contract = f"null for {architecture}, which has no recurrent matrix"
        raise NetworkConfigError("model.init_gain", contract, str(init_gain), "Use model.forget_bias.")


class LayerWeights(NamedTuple):
    """The parameters of a single fused layer, which torch names with the suffix `_l0`; G gates or 1."""

    weight_ih: Float[Tensor, "GD C"]
    weight_hh: Float[Tensor, "GD D"]
    bias_ih: Float[Tensor, " GD"]
    bias_hh: Float[Tensor, " GD"]


def layer_weights(layer: RecurrentLayer) -> LayerWeights:
    """The parameters of a layer by their role."""
    return LayerWeights(*(cast("Tensor", getattr(layer, f"{name}_l0")) for name in LayerWeights._fields))


def gate_rows(architecture: str, gate: str, hidden_size: int) -> slice:
    """Rows of `weight_ih`, `weight_hh` and the biases that belong to a gate."""
    position = GATES[architecture].index(gate)
    return slice(position * hidden_size, (position + 1) * hidden_size)


def _orthogonal(layer: RecurrentLayer) -> None:
    _zero_biases(layer)
    weights = layer_weights(layer)
    for matrix in weights.weight_hh.split(layer.hidden_size):
        nn.init.orthogonal_(matrix)
    for matrix in weights.weight_ih.split(layer.hidden_size):
        nn.init.xavier_uniform_(matrix)


def _chrono(layer: RecurrentLayer, architecture: str, num_updates: int) -> None:
    _zero_biases(layer)
    longest = max(num_updates - 1.0, 2.0)
    bias = torch.empty(layer.hidden_size).uniform_(1.0, longest).log()
    _set_gate_bias(layer, architecture, KEEP_GATE[architecture], bias)
    if "input" in GATES[architecture]:
        _set_gate_bias(layer, architecture, "input", -bias)


def layer_biases(layer: RecurrentLayer) -> tuple[Float[Tensor, " GD"], ...]:
    """The biases whose sum counts: torch's pair, or a minimal layer's only one."""
    names = ("bias_ih_l0",) if isinstance(layer, MinimalLayer) else ("bias_ih_l0", "bias_hh_l0")
    return tuple(layer.get_parameter(name) for name in names)


def _zero_biases(layer: RecurrentLayer) -> None:
    for bias in layer_biases(layer):
        nn.init.zeros_(bias)


def _set_gate_bias(layer: RecurrentLayer, architecture: str, gate: str, bias: Tensor) -> None:
    rows = gate_rows(architecture, gate, layer.hidden_size)
    first, *others = layer_biases(layer)
    first[rows] = bias.to(first)
    for other in others:
        other[rows] = 0.0
