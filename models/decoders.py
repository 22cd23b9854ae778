"""How the final state becomes a horizon."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Width of the summary of the past that every horizon step gets of its own.
STEP_FEATURES = 16


class DirectDecoder(nn.Module):
    """All horizon steps at once, EVERY one of them conditioned on the final state.

    Each step gets its own projection of the final state, joined with the covariates known for that step; one small
    network, shared by the steps, turns both into features.

    Args:
        hidden_size: D of the encoder.
        horizon: H.
        num_covariates: Future and static channels per step.
        num_features: Channels handed to the head.
    """

    def __init__(self, hidden_size: int, horizon: int, num_covariates: int, num_features: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.step_projection = nn.Linear(hidden_size, horizon * STEP_FEATURES)
        self.mixer = nn.Linear(STEP_FEATURES + num_covariates, num_features)

    def forward(self, state: Float[Tensor, "B D"], covariates: Float[Tensor, "B H E"]) -> Float[Tensor, "B H M"]:
        """Features of every horizon step.

        Args:
            state: Final hidden state of the top layer.
            covariates: Standardised channels known for each horizon step; E may be 0.

        Returns:
            Features for the head.
        """
        steps = torch.relu(self.step_projection(state)).view(-1, self.horizon, STEP_FEATURES)
        if covariates.shape[-1]:
            steps = torch.cat((steps, covariates), dim=-1)
        return torch.relu(self.mixer(steps))


class StepDecoder(nn.Module):
    """Features of a step from the state before it and what is known of it.

    Args:
        hidden_size: Units of the state.
        num_covariates: Channels known for each horizon step (E).
        num_features: Channels for the head (M).
    """

    def __init__(self, hidden_size: int, num_covariates: int, num_features: int) -> None:
        super().__init__()
        self.mixer = nn.Linear(hidden_size + num_covariates, num_features)

    def forward(self, states: Float[Tensor, "B J D"], covariates: Float[Tensor, "B J E"]) -> Float[Tensor, "B J M"]:
        """Features of J steps.

        Args:
            states: Hidden state before each step.
            covariates: Standardised channels known for it; E may be 0.
        """
        return torch.relu(self.mixer(torch.cat((states, covariates), dim=-1)))
