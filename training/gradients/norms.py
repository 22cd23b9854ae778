"""L2 norms of the gradient per layer, weight matrix and gate, from one fused pass over all of them.

The total is needed at every step for clipping; splitting it by gate costs nothing more, because the gates are views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.config import MINIMAL_CELLS
from models.forecaster import Forecaster
from models.initialization import GATES
from training.errors import NumericalError

# Dashboards choke on thousands of keys; beyond this many, gates and then matrices are left to the readings file.
MAX_KEYS = 60


@dataclass(frozen=True)
class NormLeaf:
    """One slice of a parameter whose norm is measured on its own.

    Attributes:
        layer: Name of the layer, such as `lstm.0`.
        matrix: `weight_ih`, `weight_hh`, `bias_ih`, ...
        gate: Gate of a recurrent layer, or empty.
        parameter: Position in the list of parameters.
        rows: Rows of the parameter; None for all.
    """

    layer: str
    matrix: str
    gate: str
    parameter: int
    rows: slice | None


class GradientNorms:
    """Measures the gradient of every trainable parameter of a network.

    Args:
        forecaster: Its `layers()` name the groups; parameters outside of them are grouped by their own module.
    """

    def __init__(self, forecaster: Forecaster) -> None:
        self.parameters: list[nn.Parameter] = []
        self.leaves: list[NormLeaf] = []
        self._leaves_per_parameter: list[int] = []
        for layer, matrix, parameter in named_layer_parameters(forecaster):
            gates = GATES.get(layer.partition(".")[0], ()) if "_hh" in matrix or "_ih" in matrix else ()
            self._add(layer, matrix, gates, parameter)
        self.layers = tuple(dict.fromkeys(leaf.layer for leaf in self.leaves))

    def _add(self, layer: str, matrix: str, gates: tuple[str, ...], parameter: nn.Parameter) -> None:
        position = len(self.parameters)
        self.parameters.append(parameter)
        self._leaves_per_parameter.append(max(1, len(gates)))
        if not gates:
            self.leaves.append(NormLeaf(layer, matrix, "", position, None))
            return
        size = parameter.shape[0] // len(gates)
        for index, gate in enumerate(gates):
            self.leaves.append(NormLeaf(layer, matrix, gate, position, slice(index * size, (index + 1) * size)))

    def measure(self) -> Float[Tensor, " leaves"]:
        """Norm of the current gradient of every leaf, on the parameters' device; 0 where there is no gradient."""
        parts = zip(self.parameters, self._leaves_per_parameter, strict=True)
        # The gates are equal blocks of rows: one norm along the rest of a view, instead of a slice and a norm each.
        return torch.cat(
            [
                torch.linalg.vector_norm(parameter.grad.reshape(leaves, -1), dim=1)
                if parameter.grad is not None
                else parameter.new_zeros(leaves)
                for parameter, leaves in parts
            ]
        )

    def named(self, norms: Sequence[float]) -> dict[str, float]:
        """Metric names of the contract for one measurement, at most `MAX_KEYS` of them.

        Args:
            norms: One number per leaf, in the order of `leaves`.

        Returns:
            `grad_norm/total`, `grad_norm/<layer>`, `grad_norm/<layer>.<weight>`, `grad_norm/<layer>.<weight>.<gate>`.
        """
        squares: dict[int, dict[str, float]] = {0: {}, 1: {}, 2: {}, 3: {}}
        for leaf, norm in zip(self.leaves, norms, strict=True):
            names = ["total", leaf.layer]
            if leaf.matrix.startswith("weight"):
                names.append(f"{leaf.layer}.{leaf.matrix}")
                if leaf.gate and leaf.matrix == gate_matrix(leaf.layer):
                    names.append(f"{leaf.layer}.{leaf.matrix}.{leaf.gate}")
            for depth, name in enumerate(names):
                squares[depth][name] = squares[depth].get(name, 0.0) + norm * norm
        named: dict[str, float] = {}
        for group in squares.values():
            if len(named) + len(group) > MAX_KEYS:
                break
            named |= {f"grad_norm/{name}": math.sqrt(square) for name, square in group.items()}
        return named

    def leaf_named(self, norms: Sequence[float]) -> dict[str, float]:
        """Every leaf by its full name, `grad_norm/<layer>.<matrix>[.<gate>]`, for the readings file."""
        return {
            "grad_norm/" + ".".join(part for part in (leaf.layer, leaf.matrix, leaf.gate) if part): norm
            for leaf, norm in zip(self.leaves, norms, strict=True)
        }


def total_norm(norms: Float[Tensor, " leaves"]) -> Float[Tensor, ""]:
    """Norm of the whole gradient."""
    return torch.linalg.vector_norm(norms)


def clip_(parameters: Sequence[nn.Parameter], total: Float[Tensor, ""], max_norm: float) -> Float[Tensor, ""]:
    """Scale gradients in place so that their total norm is at most `max_norm` (Pascanu et al. 2013, 1211.5063).

    Args:
        parameters: Whose gradients to scale.
        total: Their total norm.
        max_norm: The limit.

    Returns:
        The factor applied, 1 where nothing was clipped.
    """
    coefficient = (max_norm / (total + 1e-6)).clamp(max=1.0)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    torch._foreach_mul_(gradients, coefficient)
    return coefficient


def gate_matrix(layer: str) -> str:
    """The matrix whose norm is shown gate by gate: the recurrent one, or a minimal layer's only one."""
    return "weight_ih" if layer.partition(".")[0] in MINIMAL_CELLS else "weight_hh"


def named_layer_parameters(forecaster: Forecaster) -> list[tuple[str, str, nn.Parameter]]:
    """Every trainable parameter with its layer's name and its own, `weight_hh` for torch's `weight_hh_l0`."""
    rows: list[tuple[str, str, nn.Parameter]] = []
    seen: set[int] = set()
    for layer, module in forecaster.layers().items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                rows.append((layer, name.removesuffix("_l0"), parameter))
                seen.add(id(parameter))
    for name, parameter in forecaster.named_parameters():
        if parameter.requires_grad and id(parameter) not in seen:
            rows.append((name.partition(".")[0], name.partition(".")[2], parameter))
    return rows


def validate_finite_gradient(gradient_norms: GradientNorms, norms: Float[Tensor, " leaves"], step: int) -> None:
    """Refuse a gradient that is not a number.

    Raises:
        NumericalError: Naming the step and the first layer, from the input on, whose gradient is not finite.
    """
    finite = torch.isfinite(norms)
    if bool(finite.all()):
        return
    leaf = gradient_norms.leaves[int((~finite).nonzero()[0])]
    where = ".".join(part for part in (leaf.layer, leaf.matrix, leaf.gate) if part)
    raise NumericalError(f"gradient of {where} at step {step}", "finite", "NaN or Inf")
