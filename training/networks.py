"""From the run's configuration and the columns of the data to a network at its initialisation."""

from __future__ import annotations

from typing import Any

from models.config import NETWORK_CONFIG_ADAPTER
from models.dilated import doubling_dilations
from models.forecaster import CovariateStatistics, Forecaster
from models.registry import build_forecaster
from training.config import DILATED, TrainingConfig
from training.data.panel import Panel


def build_network(config: TrainingConfig, panel: Panel, statistics: CovariateStatistics) -> Forecaster:
    """Build the network of a configuration without nulls, initialised from the global torch generator.

    Args:
        config: Sizes, architecture and initialization.
        panel: Whose columns it reads.
        statistics: Standardisation of its covariates.

    Raises:
        NetworkConfigError: If the initialization does not exist for the architecture.
    """
    forecaster = build_forecaster(NETWORK_CONFIG_ADAPTER.validate_python(network_description(config, panel)))
    forecaster.set_covariate_statistics(statistics)
    return forecaster


def network_description(config: TrainingConfig, panel: Panel) -> dict[str, Any]:
    """The fields of the network's own configuration, from the run's configuration and the columns of the data."""
    model, columns = config.model, panel.columns
    description = {
        "architecture": model.network,
        "context_length": model.context_length,
        "horizon": model.horizon,
        "num_past_covariates": len(columns.past_features),
        "num_future_covariates": len(columns.future_features),
        "num_static_covariates": columns.num_static_channels,
        "scaler": model.scaler,
        "head": model.head,
        "quantile_levels": model.quantile_levels,
        "conformal": model.conformal,
    }
    if columns.series:
        description |= {"series_embedding": model.series_embedding, "num_series": len(columns.series)}
    if model.network == "linear":
        return description
    description |= {
        key: getattr(model, key)
        for key in (
            "hidden_size", "num_layers", "dropout", "initialization", "forget_bias", "init_gain", "decoder", "num_paths",
            "skip",
        )
    }
    if model.network in DILATED:
        assert model.context_length is not None
        description["dilations"] = model.dilations or doubling_dilations(model.num_layers, model.context_length)
    of_kind = {
        "rnn": ("nonlinearity",), "dilated_rnn": ("nonlinearity",),
        "segrnn": ("segment_length", "linear_share", "linear_length", "recurrent_length"),
    }  # fmt: skip
    return description | {key: getattr(model, key) for key in of_kind.get(model.network, ())}
