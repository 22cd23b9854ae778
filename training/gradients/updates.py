"""How far an update really moved the weights, relative to their size."""

from __future__ import annotations

import torch
from torch import Tensor

from models.forecaster import Forecaster
from training.gradients.norms import named_layer_parameters

TINY = 1e-12


class UpdateRatio:
    """norm(dW) / norm(W) per layer, measured around one optimizer step.

    Healthy training with an adaptive optimizer is around 1e-3 (Karpathy 2015; Cockpit, 2102.06604, plots the same).

    Args:
        forecaster: The network under training.
    """

    def __init__(self, forecaster: Forecaster) -> None:
        rows = named_layer_parameters(forecaster)
        self.parameters = [parameter for _, _, parameter in rows]
        self.layer_of = [layer for layer, _, _ in rows]
        self._before: list[Tensor] = []

    @torch.no_grad()
    def before_step(self) -> None:
        """Remember the weights."""
        self._before = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def after_step(self) -> tuple[dict[str, float], dict[str, float]]:
        """Compare with the weights before.

        Returns:
            `update_ratio/<layer>`, dimensionless, and `weight_norm/<layer>` before the step.
        """
        moved = torch._foreach_norm(torch._foreach_sub([p.detach() for p in self.parameters], self._before))  # noqa: SLF001  the only fused form
        size = torch._foreach_norm(self._before)  # noqa: SLF001
        table = torch.stack((torch.stack(moved), torch.stack(size))).square().tolist()
        self._before = []
        sums: dict[str, list[float]] = {}
        for layer, moved_square, size_square in zip(self.layer_of, *table, strict=True):
            row = sums.setdefault(layer, [0.0, 0.0])
            row[0] += moved_square
            row[1] += size_square
        ratios = {f"update_ratio/{layer}": (row[0] ** 0.5) / (row[1] ** 0.5 + TINY) for layer, row in sums.items()}
        return ratios, {f"weight_norm/{layer}": row[1] ** 0.5 for layer, row in sums.items()}
