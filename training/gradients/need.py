"""Need: how far back the data pays, before any network is trained.

A ridge regression over growing context, in seconds: the need is the smallest context whose validation error is within 5 %
of that of the whole context. Windows are scaled as the network scales them and covariates known for the future are
accounted for first, so it is the need of the recurrence that is measured: a level that the scaler hands over, or a season
that a calendar tells, need not be remembered. A linear probe cannot see multiplicative dependence; a user who knows more
declares the need, and nothing is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.data.panel import Panel
from training.data.splits import Splits
from training.data.windows import TrainingWindows, WindowStore
from training.gradients.known_future import distinct_rows, fit_static_map
from training.gradients.need_ridge import NestedRidge
from training.gradients.season import find_seasons

# Within this share of the error with the whole context, a shorter one is enough.
TOLERANCE = 0.05
# And a difference must exceed this many standard errors over stretches of validation time to count at all.
MIN_STANDARD_ERRORS = 2.0
VALIDATION_SHARE = 0.2
MIN_WINDOWS = 60
MAX_WINDOWS = 20_000
MAX_COLUMNS = 1000
MAX_HORIZON_STEPS = 24
MAX_SCORED = 1000
NUM_CONTEXTS = 14
# Contexts are halved into until the need is known to a tenth.
REFINEMENT = 0.1
# Of the gain of the whole context, what one season must bring to be all that is needed.
SEASON_SHARE = 0.95
# Of the normal equations; about a second on one core.
MULTIPLY_ADDS = 3e10
# Steps of all windows whose covariates are looked at; about a second.
MAX_COVARIATE_STEPS = 2_000_000
# Values gathered at once: 64 M of float32 are 256 MB.
MAX_VALUES = 64_000_000
SCALE_FLOOR = 0.1
CLIP = 8.0


class NeedWindows(NamedTuple):
    """Windows to estimate the need from, in the order of time; the last fifth validates.

    Attributes:
        context: Past values of `y`, oldest first.
        observed_mask: True where the value is real.
        target: Future values of `y`.
        target_mask: True where the target is real.
        past_covariates: Channels known over the context, the known-future ones first; P may be 0.
        future_covariates: Channels known over the horizon; F may be 0.
    """

    context: Float[Tensor, "W L"]
    observed_mask: Bool[Tensor, "W L"]
    target: Float[Tensor, "W H"]
    target_mask: Bool[Tensor, "W H"]
    past_covariates: Float[Tensor, "W L P"]
    future_covariates: Float[Tensor, "W H F"]


@dataclass(frozen=True)
class Need:
    """How far back the data pays.

    Attributes:
        steps: Smallest context that holds what pays; 1 if nothing beyond level and covariates does.
        source: Declared by the user, found by the ridge regression, or the season that it lies in.
        contexts: Contexts tried, in steps; empty if declared.
        errors: Validation error with each, in units of a window's spread.
        evidence: `gain` (share of the error that the far half of the need takes away), `error_full`, `error_without`
            any context, `season_steps` and `season_autocorrelation` where there is a season, `num_windows`.
    """

    steps: int
    source: Literal["declared", "ridge", "season"]
    contexts: tuple[int, ...] = ()
    errors: tuple[float, ...] = ()
    evidence: dict[str, float] = field(default_factory=dict)

    @property
    def is_shown(self) -> bool:
        """Whether a shorter reach would cost anything: only then may it be called a fault."""
        return self.source == "declared" or self.evidence.get("gain", 0.0) >= TOLERANCE


def estimate_need(
    windows: NeedWindows,
    season_length: int | None = None,
    declared: int | None = None,
    seed: int = 0,
    per_window: bool = True,
) -> Need:
    """Estimate how far back the data pays, or take the user's word.

    Args:
        windows: Contexts as long as the longest need worth knowing.
        season_length: Steps per season, tried as a context beside log-spaced ones.
        declared: Need in steps that the user knows (`gradients.need_steps`).
        seed: Of the random features that stand for the covariates.
        per_window: Whether the network scales every window by itself; False if it reads values as they are, whose level
            is then part of what has to be remembered.

    Returns:
        The need with its evidence.
    """
    if declared is not None:
        return Need(declared, "declared")
    windows = _affordable(windows)
    length, count = windows.context.shape[1], len(windows.context)
    num_training = count - int(VALIDATION_SHARE * count)
    context, target = _unexplained(windows, num_training, seed, per_window)
    seasons = find_seasons(context, windows.observed_mask)
    evidence = {"num_windows": float(count)}
    if seasons:
        evidence |= {"season_steps": float(seasons[0].steps), "season_autocorrelation": seasons[0].autocorrelation}
    if count < MIN_WINDOWS:
        # Too few to regress on: the season is all there is to go by.
        return Need(seasons[0].steps if seasons else 1, "season", evidence=evidence)
    weight = windows.target_mask.to(target.dtype)
    features = _channels(context, windows, target, num_training)
    ridge = NestedRidge(features, _thin_horizon(target), _thin_horizon(weight), num_training)
    marks = [season.steps for season in seasons] + [season_length or 1]
    steps = _smallest_sufficient(ridge, length, marks)
    snapped = _combine(ridge, steps, [mark for mark in marks if 1 < mark <= length], windows.target.shape[1])
    errors = ridge.errors()
    evidence |= {"gain": _gain(errors, snapped), "error_full": errors[length], "error_without": errors[0]}
    source: Literal["ridge", "season"] = "season" if snapped != steps else "ridge"
    return Need(max(snapped, 1), source, tuple(errors), tuple(errors.values()), evidence)


def need_windows(
    panel: Panel, splits: Splits, max_lag: int, horizon: int, max_windows: int = MAX_WINDOWS, seed: int = 0
) -> NeedWindows:
    """Draw windows from the training rows of a panel, in the order of relative time.

    Args:
        panel: The series.
        splits: Where the training rows end.
        max_lag: Steps of context; the longest need that can be found.
        horizon: Steps to forecast.
        max_windows: Windows at most; fewer where they are wide.
        seed: Of the draw.

    Returns:
        The windows.

    Raises:
        DataError: If no series has a training window.
    """
    store = WindowStore(panel, max_lag, horizon)
    training = TrainingWindows(store, splits)
    values = (max_lag + horizon) * (1 + len(panel.columns.past_features))
    count = min(training.num_windows, max_windows, max(MAX_VALUES // values, MIN_WINDOWS))
    generator = torch.Generator().manual_seed(seed)
    if count == training.num_windows:
        series, cutoff = training.locate(torch.arange(count))
    else:
        series, cutoff = training.sample(count, generator)
    share = cutoff / torch.from_numpy(splits.train_end)[series]
    order = share.argsort(stable=True)
    batch = store.gather(series[order], cutoff[order])
    inputs = batch.inputs
    return NeedWindows(
        inputs.context,
        inputs.observed_mask,
        batch.target,
        batch.target_mask,
        inputs.past_covariates,
        inputs.future_covariates,
    )


def _unexplained(
    windows: NeedWindows, num_training: int, seed: int, per_window: bool
) -> tuple[Float[Tensor, "W L"], Float[Tensor, "W H"]]:
    """Context and target in units of each window's or the whole spread, less what covariates say; 0 where unknown."""
    seen = windows.observed_mask
    raw = torch.where(seen, windows.context, 0.0)
    loc, scale = _window_spread(raw, seen) if per_window else _whole_spread(raw[:num_training], seen[:num_training])
    context, target = (((part - loc) / scale).clamp(-CLIP, CLIP) for part in (raw, windows.target))
    num_known = windows.future_covariates.shape[2]
    if num_known:
        known = slice(0, num_training)
        static_map = fit_static_map(windows.future_covariates[known], target[known], windows.target_mask[known], seed)
        length = context.shape[1]
        steps = torch.cat((windows.past_covariates[..., :num_known], windows.future_covariates), dim=1)
        rows, position = distinct_rows(steps.flatten(0, 1))
        explained = static_map(rows)[position].view(steps.shape[:2])
        context, target = context - explained[:, :length], target - explained[:, length:]
    context = torch.where(seen, context - _mean(context, seen), 0.0)
    real = windows.target_mask
    return context, torch.where(real, target - _mean(target[:num_training], real[:num_training]), 0.0)


def _window_spread(raw: Float[Tensor, "W L"], seen: Bool[Tensor, "W L"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every window, floored."""
    count = seen.sum(dim=1, keepdim=True).clamp(min=1)
    loc = raw.sum(dim=1, keepdim=True) / count
    spread = (torch.where(seen, raw - loc, 0.0).square().sum(dim=1, keepdim=True) / count).sqrt()
    # A nearly constant window among lively ones would otherwise count a thousandfold.
    positive = spread[spread > 0]
    floor = SCALE_FLOOR * positive.median() if len(positive) else torch.ones_like(spread[0, 0])
    return loc, spread.clamp(min=float(floor))


def _whole_spread(raw: Float[Tensor, "W L"], seen: Bool[Tensor, "W L"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over all windows, the same for every one of them."""
    values = raw[seen]
    spread = values.std() if len(values) > 1 else raw.new_zeros(())
    return _mean(raw, seen), spread if spread > 0 else torch.ones_like(spread)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _channels(
    context: Float[Tensor, "W L"], windows: NeedWindows, target: Float[Tensor, "W H"], num_training: int
) -> Float[Tensor, "W L K"]:
    """y and the covariates that go along with the target best, as many as fit; newest step first."""
    channels = [context]
    room = MAX_COLUMNS // context.shape[1] - 1
    num_covariates = windows.past_covariates.shape[2]
    if num_covariates and room > 0:
        # A thousand windows tell which channels go along; all of them would be most of the time spent here.
        rows = torch.linspace(0, num_training - 1, min(num_training, MAX_SCORED), device=context.device).round().long()
        part = windows.past_covariates[rows]
        loc, scale = part.mean(dim=(0, 1)), part.std(dim=(0, 1))
        scale = torch.where(scale > 1e-5 * loc.abs().clamp(min=1e-5), scale, torch.inf)
        scores = torch.einsum("wlp,wh->plh", (part - loc) / scale, target[rows]).abs().amax(dim=(1, 2))
        chosen = scores.argsort(descending=True)[:room].tolist()
        channels += [(windows.past_covariates[..., index] - loc[index]) / scale[index] for index in chosen]
    return torch.stack(channels, dim=-1).flip(1)


def _thin_horizon(part: Float[Tensor, "W H"]) -> Float[Tensor, "W h"]:
    """At most 24 steps of a long horizon, the first and last among them."""
    horizon = part.shape[1]
    return part[:, torch.linspace(0, horizon - 1, min(horizon, MAX_HORIZON_STEPS)).round().long()]


def _smallest_sufficient(ridge: NestedRidge, length: int, marks: Iterable[int]) -> int:
    """Smallest context within the tolerance of the best one: log-spaced, then halved into the last gap.

    The whole context is the best one but where rows are few and its regression learns them by heart.
    """
    spaced = {round(length ** (index / (NUM_CONTEXTS - 1))) for index in range(NUM_CONTEXTS)}
    contexts = sorted({0, 2, 3, *spaced, *marks} & set(range(length + 1)))
    best = min(contexts, key=lambda steps: float(ridge.block_errors(steps).mean()))
    enough = next(index for index, steps in enumerate(contexts) if _is_sufficient(ridge, steps, best))
    low, high = contexts[max(enough - 1, 0)], contexts[enough]
    while high - low > max(1, REFINEMENT * high):
        middle = (low + high) // 2
        low, high = (low, middle) if _is_sufficient(ridge, middle, best) else (middle, high)
    return high


def _is_sufficient(ridge: NestedRidge, steps: int, best: int) -> bool:
    blocks, full = ridge.block_errors(steps), ridge.block_errors(best)
    excess = blocks - full
    standard_error = float(excess.std()) / math.sqrt(len(excess)) if len(excess) > 1 else 0.0
    is_close = float(excess.mean()) <= TOLERANCE * float(full.mean())
    return is_close or float(excess.mean()) <= MIN_STANDARD_ERRORS * standard_error


def _combine(ridge: NestedRidge, steps: int, seasons: Sequence[int], horizon: int) -> int:
    """Round a need to the season it stands for.

    A context just short of a season holds it for the last steps of the horizon only. And where one season brings nearly
    all that the whole context brings, the rest is averaging over several seasons: a matter of a few percent of an
    error that is small already, not of something that lies further back.
    """
    without, full = float(ridge.block_errors(0).mean()), min(ridge.errors().values())
    for season in sorted(seasons):
        if max(season / 2, season - horizon) < steps <= season:
            return season
        gained = without - float(ridge.block_errors(season).mean())
        if steps > season and gained >= SEASON_SHARE * (without - full):
            return season
    return steps


def _gain(errors: Mapping[int, float], steps: int) -> float:
    """Share of the error that the far half of the need takes away: what a model without reach cannot gain."""
    shorter = max(context for context in errors if context <= steps // 2)
    return 1.0 - errors[steps] / errors[shorter] if errors[shorter] > 0 and steps else 0.0


def _affordable(windows: NeedWindows) -> NeedWindows:
    """As many windows, evenly over time, as the regression and the covariates leave time for."""
    count, length = windows.context.shape
    channels = 1 + windows.past_covariates.shape[2]
    columns = min(length * channels, max(MAX_COLUMNS, length))
    limit = MULTIPLY_ADDS / columns**2
    if windows.future_covariates.shape[2]:
        limit = min(limit, MAX_COVARIATE_STEPS / (length + windows.target.shape[1]))
    kept = min(count, max(int(limit), MIN_WINDOWS))
    if kept == count:
        return windows
    rows = torch.linspace(0, count - 1, kept, dtype=torch.float64).round().long().to(windows.context.device)
    return NeedWindows(*(part[rows] for part in windows))
