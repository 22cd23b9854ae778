"""Architecture name to class: the only way a name in a bundle becomes code."""

from __future__ import annotations

from models.config import GRUConfig, LinearConfig, LSTMConfig, RNNConfig
from models.forecaster import Forecaster, RecurrentForecaster
from models.linear import LinearForecaster


def build_forecaster(config: LinearConfig | RNNConfig | GRUConfig | LSTMConfig) -> Forecaster:
    """Build the network that a configuration describes, initialised from the global torch generator.

    Raises:
        NetworkConfigError: If the initialization does not exist for the architecture.
    """
    if isinstance(config, LinearConfig):
        return LinearForecaster(config)
    return RecurrentForecaster(config)
