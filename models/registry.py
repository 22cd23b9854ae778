"""Architecture name to class: the only way a name in a bundle becomes code."""

from __future__ import annotations

from models.config import LinearConfig, SegRNNConfig, SomeNetworkConfig
from models.forecaster import Forecaster
from models.linear import LinearForecaster
from models.recursive import RecursiveForecaster
from models.segment import SegmentForecaster
from models.stepwise import StepwiseForecaster


def build_forecaster(config: SomeNetworkConfig) -> Forecaster:
    """Build the network that a configuration describes, initialised from the global torch generator.

    Raises:
        NetworkConfigError: If the initialization does not exist for the architecture.
    """
    if isinstance(config, LinearConfig):
        return LinearForecaster(config)
    if isinstance(config, SegRNNConfig):
        return SegmentForecaster(config)
    return RecursiveForecaster(config) if config.decoder == "recursive" else StepwiseForecaster(config)
