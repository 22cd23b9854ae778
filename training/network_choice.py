"""Which network a fit gets that was not told: segments through a GRU, a linear map, or the mean of their forecasts.

The mean is taken unless chance does not explain that another forecasts better.
All are trained on the training rows but the last of each series, and compared on those: many windows, none of which
selects or tests anything later. The recurrent network is tried with several budgets, for it learns few rows by heart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from models.config import SHARED_HEADS, ScalerName, usual_scaler
from training.choices import Choices, longest_context, resolve_choices
from training.config import ArchitectureName, TrainingConfig, build_config
from training.data.mapping import Watch
from training.data.panel import Panel
from training.data.splits import Splits, build_splits
from training.data.windows import validation_cutoffs
from training.errors import DataError
from training.network_trial import SILENT_WATCH, Trial, trial_steps, try_network

RECURRENT: ArchitectureName = "segrnn"
LINEAR: ArchitectureName = "linear"
# Windows measured from their last value suit series that drift (Zeng et al. 2023, 2205.13504, for the linear map).
FROM_LAST: ScalerName = "last"
# Share of the training rows of a series that is held out, at its end.
TAIL_SHARE = 0.15
# The recurrent network is tried with no fewer steps: with less the rate of its schedule hardly rises before it falls.
FEWEST_STEPS = 100
# Parts of the budget that are always tried; losses of neighbours differ by chance, so two would not show which way is down.
BUDGET_PARTS = (8, 4, 2)
# Contexts tried with the linear map, times the usual one: on sea temperatures four times as far took MASE from 1.07 to 0.76.
LONGER_CONTEXTS = (2, 4)
# What has more to learn by heart must be lower by this factor: a longer context, and the network where a mean cannot be had. A
# loss that another is not below by this factor is nearly as good.
CLEARLY_LOWER = 0.95
# Shares of the linear map in a mean with the recurrent network. Equal ones are hard to beat (Stock & Watson 2004,
# doi:10.1002/for.928).
EQUAL = 0.5
SHARES = (0.25, EQUAL, 0.75)


class _Tried(NamedTuple):
    choices: Choices
    trial: Trial

    @property
    def context(self) -> int:
        return cast("int", self.choices.config.model.context_length)

    @property
    def steps(self) -> int:
        return trial_steps(self.choices.config)


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
    choices = resolve_choices(_with_network(config, RECURRENT), panel)
    if not may_train:
        return _say(choices, "mostly the best; train compares it with linear on held-out rows first")
    try:
        splits = _hold_out(_splits(choices.config, panel))
    except DataError:
        return _say(choices, "the series are too short to compare it with another")

    def tried(choices: Choices) -> _Tried:
        return _Tried(choices, try_network(choices.config, panel, splits, device, watch, stop_requested))

    recurrent = _try_recurrent(choices, tried)
    linears = _try_linear(config, panel, tried)
    linear = _best_linear(linears)
    means = _means(recurrent, linears) if choices.config.model.head in SHARED_HEADS else []
    chosen = _best(recurrent, linear, means)
    candidates = {f"of {RECURRENT}": recurrent.trial.loss, f"of {LINEAR}": linear.trial.loss}
    if means and chosen in (recurrent, linear):
        candidates["of the best mean of both"] = min(mean.trial.loss for mean in means)
    others = ", ".join(f"{loss:.4g} {whose}" for whose, loss in candidates.items() if loss != chosen.trial.loss)
    return _say(chosen.choices, f"loss on held-out training rows {chosen.trial.loss:.4g}; {others}")


def _best(recurrent: _Tried, linear: _Tried, means: Sequence[_Tried]) -> _Tried:
    """The mean with equal shares, unless something else is clearly better; the linear map unless the network is, without one.

    What chance explains is no reason to leave the combination: on employment, whose series move together, a network that was
    14 % better than the linear map on held-out rows was 11 % worse afterwards.
    """
    halves = [mean for mean in means if mean.choices.config.model.linear_share == EQUAL]
    if not halves or not math.isfinite(min(half.trial.loss for half in halves)):
        is_lower = recurrent.trial.loss < CLEARLY_LOWER * linear.trial.loss or not math.isfinite(linear.trial.loss)
        return recurrent if is_lower else linear
    half = min(halves, key=lambda one: one.trial.loss)
    better = [one for one in (recurrent, linear, *means) if half.trial.is_clearly_worse_than(one.trial)]
    return min([half, *better], key=lambda one: one.trial.loss)


def _try_recurrent(choices: Choices, tried: Callable[[Choices], _Tried]) -> _Tried:
    """The recurrent network with the budget that held-out rows ask for; said aloud if that is not the whole.

    Shares of the budget first, then half of the shortest or the whole where those are best. The next longer than the best is
    taken if it is nearly as good: the fit has more rows than the trial had, and is asked nearer to their end.
    """
    config, whole = choices.config, trial_steps(choices.config)
    fewest = max(FEWEST_STEPS, config.optimizer.warmup_steps + 1)

    def tried_with(steps: int) -> _Tried:
        tree = config.model_dump()
        tree["fit"]["max_steps"] = steps
        return tried(choices._replace(config=build_config(tree)))

    budgets = [whole // part for part in BUDGET_PARTS if whole // part >= fewest]
    if not budgets:
        return tried(choices)
    tries = [tried_with(steps) for steps in budgets]
    best = min(tries, key=lambda one: one.trial.loss)
    if best is tries[-1]:
        tries.append(tried(choices))
    elif best is tries[0] and best.steps // 2 >= fewest:
        tries.append(tried_with(best.steps // 2))
    tries.sort(key=lambda one: one.steps)
    lowest = min(tries, key=lambda one: one.trial.loss)
    following = tries[tries.index(lowest) + 1 :][:1]
    best = next((one for one in following if _is_as_good(one.trial, lowest.trial)), lowest)
    if best.choices is choices:
        return best
    losses = ", ".join(f"{one.trial.loss:.4g} after {one.steps}" for one in tries)
    notes = (f"fit.max_steps = {best.steps} (loss on held-out training rows {losses})", *best.choices.notes)
    return best._replace(choices=best.choices._replace(notes=notes))


def _is_as_good(trial: Trial, other: Trial) -> bool:
    """Whether its loss is higher by little, and chance explains it."""
    return CLEARLY_LOWER * trial.loss < other.loss and not trial.is_clearly_worse_than(other)


def _try_linear(config: TrainingConfig, panel: Panel, tried: Callable[[Choices], _Tried]) -> list[_Tried]:
    """The linear map with the usual context and, where that was left open, with longer ones: a try takes seconds."""
    config = _with_network(config, LINEAR, FROM_LAST if _may_scale(config) else None)
    first = tried(resolve_choices(config, panel))
    if config.model.context_length is not None:
        return [first]
    lengths = [factor * first.context for factor in LONGER_CONTEXTS if factor * first.context <= longest_context(config, panel)]
    return [first, *(tried(resolve_choices(build_config(_updated(config, context_length=length)), panel)) for length in lengths)]


def _best_linear(linears: Sequence[_Tried]) -> _Tried:
    """The one with the lowest loss, unless a shorter context is as good; said aloud if it is not the usual one."""
    best = linears[0]
    for longer in linears[1:]:
        if longer.trial.loss < CLEARLY_LOWER * best.trial.loss:
            found = f"loss on held-out training rows {longer.trial.loss:.4g} against {best.trial.loss:.4g} of {best.context}"
            notes = (f"model.context_length = {longer.context} ({found})", *longer.choices.notes)
            best = longer._replace(choices=longer.choices._replace(notes=notes))
    return best


def _means(recurrent: _Tried, linears: Sequence[_Tried]) -> list[_Tried]:
    """The means of the recurrent network's forecast and every linear map's, by every share."""
    return [
        _Tried(_mean(recurrent, linear, share, trial), trial)
        for linear in linears
        for share in SHARES
        for trial in [recurrent.trial.mean_with(linear.trial, share)]
    ]


def _mean(recurrent: _Tried, linear: _Tried, share: float, trial: Trial) -> Choices:
    """What the fit of a mean is configured with; each part keeps the context that it was tried with."""
    length, context = linear.context, max(linear.context, recurrent.context)
    tree = recurrent.choices.config.model_dump()
    tree["model"] |= {
        "linear_share": share, "context_length": context, "linear_length": length if length < context else None,
        "recurrent_length": recurrent.context if recurrent.context < context else None,
    }  # fmt: skip
    notes = [f"model.linear_share = {share} (a mean with a linear map of {length} steps has {trial.loss:.4g})"]
    if context == recurrent.context:
        notes += recurrent.choices.notes
    else:
        notes.append(f"model.context_length = {context} (for the linear map)")
        notes += [note.replace("model.context_length", "model.recurrent_length") for note in recurrent.choices.notes]
    return recurrent.choices._replace(config=build_config(tree), notes=tuple(notes))


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
