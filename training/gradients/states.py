"""States that no longer move and units that never fire."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.forecaster import ForecastInputs, RecurrentForecaster
from models.minimal import MinimalLayer
from training.gradients.trace import LayerTrace, dropout_off

# Beyond this tanh passes less than 2 % of a gradient.
SATURATED_STATE = 0.99
# A unit is saturated if its state is beyond that at more than this share of windows and steps.
MOST_STEPS = 0.5
# A ReLU unit that is positive in fewer than one of a hundred places is dead (rule table: active < 1 %).
DEAD_ACTIVITY = 0.01


@torch.no_grad()
def measure_states(traces: Sequence[LayerTrace]) -> dict[str, float]:
    """Saturated and dead units of every recurrent layer, in one copy to the host.

    Args:
        traces: From `trace_layers`.

    Returns:
        `state/<layer>.saturated`: share of units with abs(h) > 0.99 at most steps, for bounded states;
        `state/<layer>.dead`: share of units active in under 1 % of steps, for ReLU states.
    """
    numbers: dict[str, Tensor] = {}
    for trace in traces:
        if isinstance(trace.layer, nn.RNN) and trace.layer.nonlinearity == "relu":
            numbers[f"state/{trace.name}.dead"] = dead_share(trace.outputs)
        elif not isinstance(trace.layer, MinimalLayer):  # whose states have no bound to sit at
            beyond = (trace.outputs.abs() > SATURATED_STATE).double().mean(dim=(0, 1))
            numbers[f"state/{trace.name}.saturated"] = (beyond > MOST_STEPS).double().mean()
    return dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True)) if numbers else {}


@torch.no_grad()
def measure_dead_units(forecaster: RecurrentForecaster, inputs: ForecastInputs) -> dict[str, float]:
    """Dead ReLU units around the recurrence: the usual victims of one update that was far too large.

    Args:
        forecaster: The network.
        inputs: Windows.

    Returns:
        `state/<part>.dead`, such as `state/decoder.dead`: the largest share of dead units of the part's ReLU layers,
        since any one alone cuts the forecast off from the past.
    """
    parts = forecaster.relu_layers()
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layers in parts.values() for layer in layers}

    def keep(module: nn.Module, _arguments: object, before_relu: Tensor) -> None:
        seen[module].append(before_relu.flatten(0, -2))

    handles = [layer.register_forward_hook(keep) for layer in seen]
    try:
        with dropout_off(forecaster):
            forecaster.forward_scaled(inputs)
    finally:
        for handle in handles:
            handle.remove()
    # A recursive decoder runs its layer once per step: all steps count together.
    shares = {layer: dead_share(torch.cat(outputs)) for layer, outputs in seen.items() if outputs}
    found = {part: [shares[layer] for layer in layers if layer in shares] for part, layers in parts.items()}
    return {f"state/{part}.dead": float(torch.stack(each).max()) for part, each in found.items() if each}


def dead_share(values: Float[Tensor, "*places D"]) -> Float[Tensor, ""]:
    """Share of the units along the last axis that are positive in under 1 % of the other places."""
    activity = (values > 0).double().flatten(0, -2).mean(dim=0)
    return (activity < DEAD_ACTIVITY).double().mean()
