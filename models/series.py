"""A learned vector per trained series (entity embeddings; Guo & Berkhahn 2016, 1604.06737), joined to what the network reads."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Share of training windows that are shown without their name: what a series nobody knows is then forecast by.
UNKNOWN_SHARE = 0.1


@final
class SeriesEmbedding(nn.Embedding):
    """Replaces the number of a series, the last static channel, by its vector.

    Number 0 is a series that was not trained on. Its vector is trained by hiding the number of every tenth window, so that the
    network has learned to do without. All vectors start at zero, where a network is that without embedding.

    Args:
        num_series: Series trained on (N), numbered from 1.
        size: Length of a vector (E).
    """

    def __init__(self, num_series: int, size: int) -> None:
        super().__init__(num_series + 1, size, _weight=torch.zeros(num_series + 1, size))
        self.hiding = nn.Dropout(UNKNOWN_SHARE)

    def forward(self, static: Float[Tensor, "B S"]) -> Float[Tensor, "B R"]:
        """The other static channels, and the vector: R = S - 1 + E."""
        number = static[:, -1].round().clamp(0, self.num_embeddings - 1).long()
        is_shown = self.hiding(torch.ones_like(static[:, -1])) > 0
        vector = super().forward(number * is_shown)
        return torch.cat((static[:, :-1], vector), dim=-1)
