"""Which network a fit gets that was not told: segments through a GRU, or a linear map where that forecasts as well.

The loss of a short validation part tells a network from luck no better than it tells checkpoints. So both are trained for
a share of the budget on the training rows but the last of each series, and compared on those: many windows, none of which
selects or tests anything later. On seven series of a transformer the linear map wins (held-out loss 0.528 against 0.538;
MASE after whole fits 0.94 against 1.12), on hourly traffic segments do (0.07 against 0.17; 0.60 against 0.94).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from training.choices import Choices, resolve_choices
from training.config import ArchitectureName, TrainingConfig, build_config
from training.data.panel import Panel
from training.data.splits import Splits, build_splits
from training.data.windows import TrainingWindows, WindowStore, covariate_statistics, validation_cutoffs
from training.errors import DataError, NumericalError
from training.gradients.norms import GradientNorms
from training.loop import FitData, train_step, validate
from training.losses import build_loss
from training.networks import build_network
from training.optimizers import LearningRateSchedule, build_optimizer
from training.precision import DTYPES
from training.scale_floor import series_scale_floor
from training.shares import share_threads

RECURRENT: ArchitectureName = "segrnn"
LINEAR: ArchitectureName = "linear"
# Share of the training rows of a series that is held out, at its end.
TAIL_SHARE = 0.15
# One step of this many of the budget, for each of the two.
BUDGET_PARTS = 4
MAX_TRIAL_STEPS = 500
MAX_HELD_OUT_WINDOWS = 512
# The recurrent network's loss must be lower by this factor: a tie goes to the map that has less to learn by heart.
CLEARLY_LOWER = 0.99


def choose_network(config: TrainingConfig, panel: Panel, device: torch.device, may_train: bool = True) -> Choices:
    """Fill in every null that depends on the data, the architecture first.

    Args:
        config: As the user wrote it.
        panel: The data.
        device: To train on.
        may_train: Whether the two may be compared; else the recurrent one is taken.

    Raises:
        DataError: If the series are too short for the horizon.
        NetworkConfigError: If the network cannot be built.
    """
    if config.model.architecture is not None:
        return resolve_choices(config, panel)
    recurrent = resolve_choices(_with_architecture(config, RECURRENT), panel)
    if not may_train:
        return _say(recurrent, "mostly the best; train compares it with linear on held-out rows first")
    try:
        splits = _hold_out(_splits(recurrent.config, panel))
    except DataError:
        return _say(recurrent, "the series are too short to compare it with another")
    linear = resolve_choices(_with_architecture(config, LINEAR), panel)
    losses = [held_out_loss(choices.config, panel, splits, device) for choices in (recurrent, linear)]
    found = f"{losses[0]:.4f} against {losses[1]:.4f} of {LINEAR} after {trial_steps(config)} steps"
    if losses[0] < CLEARLY_LOWER * losses[1] or not math.isfinite(losses[1]):
        return _say(recurrent, f"loss on held-out training rows {found}")
    return _say(linear, f"forecasts held-out training rows as well: loss of {RECURRENT} {found}")


def trial_steps(config: TrainingConfig) -> int:
    """Steps that each of the two is trained for."""
    return min(MAX_TRIAL_STEPS, max(1, config.fit.max_steps // BUDGET_PARTS))


def held_out_loss(config: TrainingConfig, panel: Panel, splits: Splits, device: torch.device) -> float:
    """Loss on the validation rows of the splits after a short fit on their training rows.

    Args:
        config: Without nulls that depend on the data.
        panel: The series.
        splits: With rows to train on and rows to compare on.
        device: To train on.

    Returns:
        The loss that the configuration minimises; infinite if the fit breaks.
    """
    model, fit = config.model, config.fit.model_copy(update={"max_steps": trial_steps(config)})
    horizon, context_length = cast("int", model.horizon), cast("int", model.context_length)
    panel = panel.extended(horizon)
    if model.series_embedding is not None and not panel.columns.series:
        panel = panel.numbered(splits.excluded)
    store = WindowStore(panel, context_length, horizon, device=str(device))
    torch.manual_seed(fit.seed)
    dtype = DTYPES[fit.precision]
    network = build_network(config, panel, covariate_statistics(panel, splits)).to(device=device, dtype=dtype)
    floor = series_scale_floor(panel, splits, model.scaler != "none").to(device, dtype)
    windows, held_out = TrainingWindows(store, splits), validation_cutoffs(splits, MAX_HELD_OUT_WINDOWS)
    data = FitData(store, windows, held_out, floor, panel.ids)
    loss = build_loss(fit.loss, network.config.output_levels, model.head)
    optimizer = build_optimizer(config.optimizer, network.parameters(), device)
    rates, norms = LearningRateSchedule(config.optimizer, fit.max_steps), GradientNorms(network)
    generator = torch.Generator().manual_seed(fit.seed)
    network.train()
    with share_threads(network, fit) as shares:
        try:
            for step in range(1, fit.max_steps + 1):
                rates.apply(optimizer, step)
                batch = store.gather(*windows.sample(fit.batch_size, generator))
                train_step(network, batch, data.floor(batch), loss, optimizer, norms, fit, step, shares=shares)
        except NumericalError:
            return math.inf
        found = validate(network, data, loss, shares=shares).mean
    return found if math.isfinite(found) else math.inf


def _splits(config: TrainingConfig, panel: Panel) -> Splits:
    return build_splits(panel, cast("int", config.model.horizon), config.data.val_size, config.data.test_size)


def _hold_out(splits: Splits) -> Splits:
    """The end of the training rows in the place of the validation rows.

    Raises:
        DataError: If no series can spare any.
    """
    tail = np.maximum(np.ceil(TAIL_SHARE * splits.train_end).astype(np.int64), splits.horizon)
    spared = splits.train_end - tail
    held = replace(splits, train_end=np.where(spared > splits.horizon, spared, splits.train_end), val_end=splits.train_end)
    validation_cutoffs(held, 1)
    return held


def _with_architecture(config: TrainingConfig, architecture: ArchitectureName) -> TrainingConfig:
    """What the user wrote, with a network and with the defaults that go with it."""
    tree = config.model_dump(by_alias=True, exclude_unset=True)
    return build_config(tree | {"model": tree.get("model", {}) | {"architecture": architecture}})


def _say(choices: Choices, reason: str) -> Choices:
    return choices._replace(notes=(f"model.architecture = {choices.config.model.architecture} ({reason})", *choices.notes))
