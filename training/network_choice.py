"""Which network a fit gets that was not told: segments through a GRU, or a linear map where that forecasts as well.

Both are trained on the training rows but the last of each series, and compared on those: many windows, none of which
selects or tests anything later. That this beats a comparison by validation loss was not shown: after whole fits that one
preferred the same network on all twelve data sets of benchmarks/results/accuracy.md, one seed each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from models.config import ScalerName, usual_scaler
from training.assembly import assemble, build_fit_data
from training.choices import Choices, longest_context, resolve_choices
from training.config import ArchitectureName, TrainingConfig, build_config
from training.data.mapping import SilentWatch, Watch
from training.data.panel import Panel
from training.data.splits import Splits, build_splits
from training.data.windows import validation_cutoffs
from training.errors import DataError, NumericalError
from training.gradients.norms import GradientNorms
from training.loop import train_step, validate
from training.losses import build_loss
from training.optimizers import LearningRateSchedule, build_optimizer
from training.shares import share_threads

RECURRENT: ArchitectureName = "segrnn"
LINEAR: ArchitectureName = "linear"
# Windows measured from their last value suit series that drift (Zeng et al. 2023, 2205.13504, for the linear map).
FROM_LAST: ScalerName = "last"
# Share of the training rows of a series that is held out, at its end.
TAIL_SHARE = 0.15
# Share of the budget that a candidate is tried with, and steps at most. A linear map is cheap, and slow to arrive; a large
# network on few rows needs steps enough to show that it learns them by heart.
TRIALS: dict[ArchitectureName, tuple[float, int]] = {RECURRENT: (0.5, 1000), LINEAR: (1.0, 2000)}
MAX_HELD_OUT_WINDOWS = 512
SILENT_WATCH = SilentWatch()
# Contexts tried with the linear map, times the usual one: on sea temperatures four times as far took MASE from 1.07 to 0.76.
LONGER_CONTEXTS = (2, 4)
# The recurrent network's loss must be lower by this factor: what is nearly a tie goes to the map that has less to learn by heart.
CLEARLY_LOWER = 0.95


def choose_network(
    config: TrainingConfig, panel: Panel, device: torch.device, may_train: bool = True, watch: Watch = SILENT_WATCH,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Choices:  # fmt: skip
    """Fill in every null that depends on the data, the architecture first.

    Args:
        config: As the user wrote it.
        panel: The data.
        device: To train on.
        may_train: Whether the two may be compared; else the recurrent one is taken.
        watch: Told how far the comparison is.
        stop_requested: Asked after every step; True ends the comparison, and nothing is chosen by it.

    Raises:
        DataError: If the series are too short for the horizon.
        NetworkConfigError: If the network cannot be built.
    """
    if config.model.architecture is not None:
        return resolve_choices(config, panel)
    recurrent = resolve_choices(_with_network(config, RECURRENT), panel)
    if not may_train:
        return _say(recurrent, "mostly the best; train compares it with linear on held-out rows first")
    try:
        splits = _hold_out(_splits(recurrent.config, panel))
    except DataError:
        return _say(recurrent, "the series are too short to compare it with another")

    def loss(choices: Choices) -> float:
        return held_out_loss(choices.config, panel, splits, device, watch, stop_requested)

    loss_recurrent = loss(recurrent)
    linear, loss_linear = _best_linear(config, panel, loss)
    if loss_recurrent < CLEARLY_LOWER * loss_linear or not math.isfinite(loss_linear):
        return _say(recurrent, f"loss on held-out training rows {loss_recurrent:.4g} against {loss_linear:.4g} of {LINEAR}")
    losses = f"loss on held-out training rows {loss_linear:.4g} against {loss_recurrent:.4g} of {RECURRENT}"
    return _say(linear, f"forecasts as well as what has more to learn: {losses}")


def _best_linear(config: TrainingConfig, panel: Panel, loss: Callable[[Choices], float]) -> tuple[Choices, float]:
    """The linear map and its loss, with the context that forecasts best where it was left open: a try takes seconds."""
    config = _with_network(config, LINEAR, FROM_LAST if _may_scale(config) else None)
    best = resolve_choices(config, panel)
    lowest, first = loss(best), cast("int", best.config.model.context_length)
    if config.model.context_length is not None:
        return best, lowest
    for length in (factor * first for factor in LONGER_CONTEXTS):
        if length > longest_context(config, panel):
            break
        longer = resolve_choices(build_config(_updated(config, context_length=length)), panel)
        found = loss(longer)
        if found < CLEARLY_LOWER * lowest:
            note = f"model.context_length = {length} (loss on held-out training rows {found:.4g} against {lowest:.4g} of "
            best, lowest = longer._replace(notes=(f"{note}{best.config.model.context_length})", *longer.notes)), found
    return best, lowest


def trial_steps(config: TrainingConfig) -> int:
    """Steps that a candidate is trained for."""
    share, most = TRIALS[config.model.network]
    return min(most, max(1, int(share * config.fit.max_steps)))


def held_out_loss(
    config: TrainingConfig, panel: Panel, splits: Splits, device: torch.device, watch: Watch = SILENT_WATCH,
    stop_requested: Callable[[], bool] = lambda: False,
) -> float:  # fmt: skip
    """Loss on the validation rows of the splits after a short fit on their training rows.

    Args:
        config: Without nulls that depend on the data.
        panel: The series.
        splits: With rows to train on and rows to compare on.
        device: To train on.
        watch: Told how far it is.
        stop_requested: Asked after every step.

    Returns:
        The loss that the configuration minimises, with errors in the spread of their series, so that it can be compared
        between scalers; infinite if the fit breaks or is to stop.
    """
    model, fit = config.model, config.fit.model_copy(update={"max_steps": trial_steps(config)})
    panel, store, network = assemble(config, panel, splits, device)
    data = build_fit_data(config, panel, store, splits, MAX_HELD_OUT_WINDOWS)
    loss = build_loss(fit.loss, network.config.output_levels, model.head)
    optimizer = build_optimizer(config.optimizer, network.parameters(), device)
    rates, norms = LearningRateSchedule(config.optimizer, fit.max_steps), GradientNorms(network)
    generator = torch.Generator().manual_seed(fit.seed)
    network.train()
    watch.start(f"trying {model.network}, context {model.context_length}", fit.max_steps, "steps")
    with share_threads(network, fit) as shares:
        try:
            for step in range(1, fit.max_steps + 1):
                rates.apply(optimizer, step)
                batch = store.gather(*data.windows.sample(fit.batch_size, generator))
                train_step(network, batch, data.floor(batch), loss, optimizer, norms, fit, step, shares=shares)
                watch.advance(1)
                if stop_requested():
                    return math.inf
        except NumericalError:
            return math.inf
        finally:
            watch.stop()
        found = validate(network, data, loss._replace(unit="series"), shares=shares).mean
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


def _may_scale(config: TrainingConfig) -> bool:
    """Whether the scaler was left alone, and losses with different ones can be compared: likelihoods have their unit."""
    return config.model.scaler == usual_scaler(config.model.head) and config.model.head in ("quantile", "point")


def _with_network(config: TrainingConfig, architecture: ArchitectureName, scaler: ScalerName | None = None) -> TrainingConfig:
    """The same with a network and the defaults that go with it.

    A default that was written out counts as left alone: a file of `--print-config` must do what no file does.
    """
    return build_config(_updated(config, architecture=architecture, **({} if scaler is None else {"scaler": scaler})))


def _updated(config: TrainingConfig, **model: Any) -> dict[str, Any]:
    tree = config.model_dump(by_alias=True, exclude_defaults=True)
    return tree | {"model": tree.get("model", {}) | model}


def _say(choices: Choices, reason: str) -> Choices:
    model, rate = choices.config.model, choices.config.optimizer.learning_rate
    of_it = f"scaler {model.scaler}" if model.architecture == LINEAR else f"{model.hidden_size} units, dropout {model.dropout:g}"
    sentence = f"model.architecture = {model.architecture}, with {of_it}, learning rate {rate:g} ({reason})"
    return choices._replace(notes=(sentence, *choices.notes))
