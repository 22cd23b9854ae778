"""Spectral radius of the recurrent matrix: the factor by which a linear recurrence grows or shrinks per step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from models.config import MINIMAL_CELLS
from models.forecaster import RecurrentForecaster
from models.initialization import GATES, gate_rows
from training.gradients.trace import layer_names

# 2^SQUARINGS steps; with 4096 of them a polynomial factor of 64 changes the result by 0.1 %.
SQUARINGS = 12
# The matrix through which the state passes when there are gates.
CANDIDATE_GATE = {"gru": "new", "lstm": "cell"}


@torch.no_grad()
def spectral_radius(matrix: Float[Tensor, "D D"]) -> Float[Tensor, ""]:
    """Largest absolute eigenvalue by Gelfand's formula, norm(W^k)^(1/k), k = 4096 by repeated squaring.

    Twelve matrix products: cheaper than eigenvalues, on any device, and accurate to about a thousandth.

    Args:
        matrix: A square matrix.

    Returns:
        The spectral radius in float64; an upper bound within its accuracy.
    """
    power = matrix.detach().double()
    log_radius = power.new_zeros(())
    for squaring in range(SQUARINGS + 1):
        norm = torch.linalg.vector_norm(power)
        # Rescaled at every squaring, or W^4096 would overflow; a nilpotent matrix ends at norm 0.
        log_radius = log_radius + norm.log() / 2**squaring
        power = power / norm.clamp(min=torch.finfo(torch.float64).tiny)
        if squaring < SQUARINGS:
            power = power @ power
    return log_radius.exp()


def measure_spectral_radius(forecaster: RecurrentForecaster) -> dict[str, float]:
    """Spectral radius of every layer's recurrent matrix, in one copy to the host.

    For gated layers it is that of the candidate's matrix (`cell`, `new`); the gates decide how much of it counts.

    Args:
        forecaster: The network.

    Returns:
        `spectral_radius/<layer>` per update, dimensionless; empty for minimal layers, which have no such matrix.
    """
    cell = forecaster.config.cell
    if cell in MINIMAL_CELLS:
        return {}
    radii = []
    for layer in forecaster.encoder.layers:
        matrix = layer.get_parameter("weight_hh_l0").detach()
        if GATES[cell]:
            matrix = matrix[gate_rows(cell, CANDIDATE_GATE[cell], forecaster.config.hidden_size)]
        radii.append(spectral_radius(matrix))
    values = torch.stack(radii).tolist()
    return {f"spectral_radius/{name}": value for name, value in zip(layer_names(forecaster), values, strict=True)}
