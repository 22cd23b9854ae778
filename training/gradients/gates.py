"""Gates recomputed from what a layer read and wrote, a matrix product for each of the two: fused kernels hide them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.config import MINIMAL_CELLS
from models.initialization import GATES, KEEP_GATE
from models.minimal import keep_logit
from training.gradients.trace import LayerTrace

# A sigmoid's slope is below 0.7 % of one beyond 5; tanh(a) = 2 sigmoid(2a) - 1 has the same at half of that.
SIGMOID_LIMIT = 5.0
TANH_LIMIT = 2.5
TANH_GATES = ("cell", "new")
# A unit is saturated if it is beyond the limit at more than this share of windows and steps.
MOST_STEPS = 0.5
# A keep gate (forget, update) below a tenth on average remembers nothing; another below a hundredth passes nothing.
SHUT_KEEP = 0.1
SHUT = 0.01
QUANTILES = (0.1, 0.5, 0.9)


class GateStatistics(NamedTuple):
    """Of one gate, per unit, over windows and steps.

    Attributes:
        saturated: Share of steps beyond the limit.
        opening: Mean activation.
    """

    saturated: Float[Tensor, " D"]
    opening: Float[Tensor, " D"]


@torch.no_grad()
def preactivations(trace: LayerTrace) -> dict[str, Float[Tensor, "B L D"]]:
    """What enters the nonlinearity of every gate at every step.

    Args:
        trace: Of an LSTM or GRU layer.

    Returns:
        Gate name to pre-activation; empty for a plain RNN. The gates of a minimal layer look at its inputs alone.
    """
    parameter, architecture = trace.layer.get_parameter, trace.name.partition(".")[0]
    gates = GATES[architecture]
    if not gates:
        return {}
    driven = functional.linear(trace.inputs, parameter("weight_ih_l0"), parameter("bias_ih_l0"))
    if architecture in MINIMAL_CELLS:
        return dict(zip(gates, driven.chunk(len(gates), dim=-1), strict=True))
    recurrent = functional.linear(trace.previous(), parameter("weight_hh_l0"), parameter("bias_hh_l0"))
    if architecture == "lstm":
        return dict(zip(gates, (driven + recurrent).chunk(len(gates), dim=-1), strict=True))
    from_input = dict(zip(gates, driven.chunk(len(gates), dim=-1), strict=True))
    from_state = dict(zip(gates, recurrent.chunk(len(gates), dim=-1), strict=True))
    reset, update = (from_input[gate] + from_state[gate] for gate in ("reset", "update"))
    # torch's GRU applies the reset gate after the recurrent product (Cho et al. 2014, second version).
    return {"reset": reset, "update": update, "new": from_input["new"] + torch.sigmoid(reset) * from_state["new"]}


def gate_statistics(gate: str, values: Float[Tensor, "B L D"]) -> GateStatistics:
    """How often each unit's gate is saturated, and how far it is open on average."""
    is_tanh = gate in TANH_GATES
    beyond = values.abs() > (TANH_LIMIT if is_tanh else SIGMOID_LIMIT)
    activation = torch.tanh(values) if is_tanh else torch.sigmoid(values)
    return GateStatistics(beyond.to(values.dtype).mean(dim=(0, 1)), activation.mean(dim=(0, 1)))


def actual_time_constants(keep: Float[Tensor, "B L D"]) -> Float[Tensor, " D"]:
    """Steps until 1/e of a unit's state is left, from its keep gate's pre-activations along the data.

    The product of the gates over n steps is exp(sum of their logarithms), so it is the mean logarithm that counts.
    """
    return -1.0 / functional.logsigmoid(keep.double()).mean(dim=(0, 1))


@torch.no_grad()
def measure_gates(traces: Sequence[LayerTrace]) -> dict[str, float]:
    """Saturation, opening and memory of every gated layer, in one copy to the host.

    Args:
        traces: From `trace_layers`.

    Returns:
        `gate/<layer>.<gate>.saturated`: share of units beyond 5 (tanh: 2.5) at most steps;
        `gate/<layer>.<gate>.shut`: share of units whose gate is shut on average (keep gates below 0.1, other sigmoid
        gates below 0.01); `gate/<layer>.<gate>.open`: mean activation;
        `memory/<layer>.p10|p50|p90`: time constants from the keep gate as it was, in steps.
    """
    numbers: dict[str, Tensor] = {}
    for trace in traces:
        cell = trace.name.partition(".")[0]
        keep_gate, gates = KEEP_GATE.get(cell), preactivations(trace)
        for gate, values in gates.items():
            if cell in MINIMAL_CELLS and gate in TANH_GATES:
                continue  # linear: there is no slope to lose
            saturated, opening = gate_statistics(gate, values)
            key = f"gate/{trace.name}.{gate}"
            numbers[f"{key}.saturated"] = (saturated > MOST_STEPS).double().mean()
            numbers[f"{key}.open"] = opening.double().mean()
            if gate not in TANH_GATES:
                limit = SHUT_KEEP if gate == keep_gate else SHUT
                numbers[f"{key}.shut"] = (opening < limit).double().mean()
            if gate == keep_gate:
                keep = keep_logit(gates["input"], values) if cell == "minlstm" else values
                constants = actual_time_constants(keep) * trace.steps_per_update * trace.dilation
                quantiles = constants.quantile(constants.new_tensor(QUANTILES)).unbind()
                names = (f"memory/{trace.name}.p{level * 100:.0f}" for level in QUANTILES)
                numbers |= dict(zip(names, quantiles, strict=True))
    if not numbers:
        return {}
    return dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True))
