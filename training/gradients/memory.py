"""Static memory: how long the weights alone let a state live, known before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from models.forecaster import RecurrentForecaster
from models.initialization import KEEP_GATE, RecurrentLayer, gate_rows, layer_biases
from models.minimal import keep_logit
from training.gradients.spectral import measure_spectral_radius
from training.gradients.trace import layer_names

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class StaticMemory:
    """Time constants of one layer's units with gates at their biases: steps until 1/e of a state is left.

    Attributes:
        layer: Name of the layer.
        source: What they follow from: `forget bias`, `update bias` or `spectral radius`.
        p10: A tenth of the units forget faster, in steps.
        p50: Median in steps.
        p90: A tenth remember longer, in steps; infinite where nothing decays.
    """

    layer: str
    source: str
    p10: float
    p50: float
    p90: float


def time_constants(keep_bias: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Steps until a unit keeps 1/e of its state when its keep gate sits at sigmoid(bias).

    Bias 0 gives 1.44 steps, 1: 3.2, 3: 20.6, 5: 149 (Tallec & Ollivier 2018, 1804.11188).
    """
    return 1.0 / functional.softplus(-keep_bias.double())  # -1 / log(sigmoid(b)) without cancellation


@torch.no_grad()
def measure_static_memory(forecaster: RecurrentForecaster) -> list[StaticMemory]:
    """Time constants from the keep gate's bias (LSTM forget, GRU update), or from the spectral radius of a plain RNN.

    Args:
        forecaster: The network.

    Returns:
        One entry per recurrent layer, in one copy to the host.
    """
    cell = forecaster.config.cell
    units = [forecaster.config.steps_per_update * dilation for dilation in forecaster.config.layer_dilations]
    names = layer_names(forecaster)
    if cell not in KEEP_GATE:
        radii = measure_spectral_radius(forecaster)
        return [_from_radius(name, radii[f"spectral_radius/{name}"], unit) for name, unit in zip(names, units, strict=True)]
    gate = KEEP_GATE[cell]
    size = forecaster.config.hidden_size
    biases = [torch.stack(layer_biases(cast("RecurrentLayer", layer))).sum(0) for layer in forecaster.encoder.layers]
    keeps = [bias[gate_rows(cell, gate, size)] for bias in biases]
    if cell == "minlstm":
        rows = gate_rows(cell, "input", size)
        keeps = [keep_logit(bias[rows], keep) for bias, keep in zip(biases, keeps, strict=True)]
    constants = torch.stack([time_constants(keep) * unit for keep, unit in zip(keeps, units, strict=True)])
    levels = constants.new_tensor(QUANTILES)
    table = constants.quantile(levels, dim=1).T.tolist()
    return [StaticMemory(name, f"{gate} bias", *row) for name, row in zip(names, table, strict=True)]


def _from_radius(name: str, radius: float, steps_per_update: int) -> StaticMemory:
    steps = math.inf if radius >= 1 else (-steps_per_update / math.log(radius) if radius > 0 else 0.0)
    return StaticMemory(name, "spectral radius", steps, steps, steps)
