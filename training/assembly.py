"""From a resolved configuration to windows and a network: what a run and the trials that choose its network share."""

from __future__ import annotations

from typing import NamedTuple

import torch

from models.forecaster import Forecaster
from training.config import TrainingConfig
from training.data.panel import Panel
from training.data.splits import Splits
from training.data.windows import TrainingWindows, WindowStore, covariate_statistics, validation_cutoffs
from training.linear_start import start_linear
from training.loop import FitData
from training.networks import build_network
from training.precision import DTYPES
from training.scale_floor import series_scale_floor


class Assembly(NamedTuple):
    """What a fit works on.

    Attributes:
        panel: The series, as far into the future as the horizon, numbered where the network has vectors of them.
        store: Windows by index.
        forecaster: The network at its initialisation, on its device.
    """

    panel: Panel
    store: WindowStore
    forecaster: Forecaster


def assemble(config: TrainingConfig, panel: Panel, splits: Splits, device: torch.device) -> Assembly:
    """Build windows and network; nothing random happens after it (the start has numbers of its own), dropout goes on there.

    Args:
        config: Without nulls that depend on the data.
        panel: The series.
        splits: Whose training rows the covariates are standardised by.
        device: To train on.

    Raises:
        NetworkConfigError: If the network cannot be built.
    """
    horizon, context_length = config.model.horizon, config.model.context_length
    assert horizon is not None
    assert context_length is not None
    panel = panel.extended(horizon)
    if config.model.series_embedding is not None and not panel.columns.series:
        panel = panel.numbered(splits.excluded)
    store = WindowStore(panel, context_length, horizon, device=str(device))
    statistics = covariate_statistics(panel, splits)
    torch.manual_seed(config.fit.seed)
    forecaster = build_network(config, panel, statistics)
    start_linear(forecaster, panel, store, splits)
    return Assembly(panel, store, forecaster.to(device=device, dtype=DTYPES[config.fit.precision]))


def build_fit_data(config: TrainingConfig, panel: Panel, store: WindowStore, splits: Splits, max_validation: int) -> FitData:
    """Training windows, the fixed validation windows, and what their errors are measured in.

    Args:
        config: Without nulls that depend on the data.
        panel: The series.
        store: Their windows.
        splits: Where training and validation rows are.
        max_validation: Validation windows at most.
    """
    floor = series_scale_floor(panel, splits, config.model.scaler != "none")
    return FitData(
        store, TrainingWindows(store, splits), validation_cutoffs(splits, max_validation),
        floor.to(store.device, DTYPES[config.fit.precision]), panel.ids,
    )  # fmt: skip
