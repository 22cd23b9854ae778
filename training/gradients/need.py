"""Need: how far back the data pays, before any network is trained.

A ridge regression over growing context, in seconds: the need is the smallest context whose validation error is within 5 %
of that of the whole context. Windows are scaled as the network scales them and covariates known for the future are
accounted for first, so it is the need of the recurrence that is measured: a level that the scaler hands over, or a season
that a calendar tells, need not be remembered. A linear probe cannot see multiplicative dependence; a user who knows more
declares the need, and nothing is estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.data.panel import Panel
from training.data.splits import Splits
from training.data.windows import TrainingWindows, WindowStore
from training.gradients.known_future import fit_static_map
from training.gradients.need_ridge import NestedErrors, nested_ridge_errors
from training.gradients.season import NO_SEASON, Season, dominant_season

# Within this share of the error with the whole context, a shorter one is enough.
TOLERANCE = 0.05
# And a difference must exceed this many standard errors over stretches of validation time to count at all.
MIN_STANDARD_ERRORS = 2.0
VALIDATION_SHARE = 0.2
MIN_WINDOWS = 60
MAX_WINDOWS = 20_000
MAX_COLUMNS = 1000
MAX_HORIZON_STEPS = 24
NUM_CONTEXTS = 14
MULTIPLY_ADDS = 3e10
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
        evidence: `gain` (share of the error that the steps beyond half of the need take away), `error_full`,
            `season_steps`, `season_autocorrelation`, `num_windows`.
    """

    steps: int
    source: Literal["declared", "ridge", "season"]
    contexts: tuple[int, ...] = ()
    errors: tuple[float, ...] = ()
    evidence: dict[str, float] = field(default_factory=dict)

    @property
    def is_shown(self) -> bool:
        """Whether a short reach would cost anything: only then may it be called a fault."""
        return self.source == "declared" or self.steps > 1


def estimate_need(
    windows: NeedWindows, season_length: int | None = None, declared: int | None = None, seed: int = 0
) -> Need:
    """Estimate how far back the data pays, or take the user's word.

    Args:
        windows: Contexts as long as the longest need worth knowing.
        season_length: Steps per season, tried as a context beside log-spaced ones.
        declared: Need in steps that the user knows (`gradients.need_steps`).
        seed: Of the random features that stand for the covariates.

    Returns:
        The need with its evidence.
    """
    if declared is not None:
        return Need(declared, "declared")
    length, count = windows.context.shape[1], len(windows.context)
    num_training = count - int(VALIDATION_SHARE * count)
    context, target = _unexplained(windows, num_training, seed)
    season = dominant_season(context, windows.observed_mask)
    evidence = {
        "season_steps": float(season.steps),
        "season_autocorrelation": season.autocorrelation,
        "num_windows": float(count),
    }
    if count < MIN_WINDOWS:
        # Too few to regress on: the season is all there is to go by.
        return Need(max(season.steps, 1), "season", evidence=evidence)
    contexts = _contexts(length, {season.steps, season_length or 0})
    weight = windows.target_mask.to(target.dtype)
    features = _channels(context, windows, target, num_training)
    nested = nested_ridge_errors(features, *_thin_horizon(target, weight), num_training, contexts)
    steps = _smallest_sufficient(nested)
    snapped = _snap_to_season(steps, season, windows.target.shape[1])
    evidence |= {"gain": _gain(nested, steps), "error_full": nested.errors[-1]}
    source: Literal["ridge", "season"] = "season" if snapped != steps else "ridge"
    return Need(max(snapped, 1), source, nested.contexts, tuple(nested.errors), evidence)


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
    channels = 1 + len(panel.columns.past_features)
    columns = min(max_lag * channels, max(MAX_COLUMNS, max_lag))
    affordable = min(MULTIPLY_ADDS / columns**2, MAX_VALUES / ((max_lag + horizon) * channels))
    count = min(training.num_windows, max_windows, max(int(affordable), MIN_WINDOWS))
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
        inputs.context, inputs.observed_mask, batch.target, batch.target_mask, inputs.past_covariates, inputs.future_covariates
    )


def _unexplained(windows: NeedWindows, num_training: int, seed: int) -> tuple[Float[Tensor, "W L"], Float[Tensor, "W H"]]:
    """Context and target in units of each window's spread, less what known covariates say; 0 where unknown."""
    seen = windows.observed_mask
    count = seen.sum(dim=1, keepdim=True).clamp(min=1)
    raw = torch.where(seen, windows.context, 0.0)
    loc = raw.sum(dim=1, keepdim=True) / count
    spread = (torch.where(seen, raw - loc, 0.0).square().sum(dim=1, keepdim=True) / count).sqrt()
    # A nearly constant window among lively ones would otherwise count a thousandfold.
    positive = spread[spread > 0]
    floor = SCALE_FLOOR * positive.median() if len(positive) else torch.ones_like(spread[0, 0])
    scale = spread.clamp(min=float(floor))
    context, target = (((part - loc) / scale).clamp(-CLIP, CLIP) for part in (raw, windows.target))
    num_known = windows.future_covariates.shape[2]
    if num_known:
        known = slice(0, num_training)
        static_map = fit_static_map(windows.future_covariates[known], target[known], windows.target_mask[known], seed)
        context = context - static_map(windows.past_covariates[..., :num_known])
        target = target - static_map(windows.future_covariates)
    context = torch.where(seen, context - _mean(context, seen), 0.0)
    real = windows.target_mask
    return context, torch.where(real, target - _mean(target[:num_training], real[:num_training]), 0.0)


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
        covariates = windows.past_covariates
        part = covariates[:num_training]
        loc, scale = part.mean(dim=(0, 1)), part.std(dim=(0, 1))
        standard = (covariates - loc) / torch.where(scale > 1e-5 * loc.abs().clamp(min=1e-5), scale, torch.inf)
        scores = torch.einsum("wlp,wh->plh", standard[:num_training], target[:num_training]).abs().amax(dim=(1, 2))
        chosen = scores.argsort(descending=True)[:room].tolist()
        channels += [standard[..., index] for index in chosen]
    return torch.stack(channels, dim=-1).flip(1)


def _thin_horizon(*parts: Float[Tensor, "W H"]) -> tuple[Float[Tensor, "W h"], ...]:
    """At most 24 steps of a long horizon, the first and last among them."""
    horizon = parts[0].shape[1]
    steps = torch.linspace(0, horizon - 1, min(horizon, MAX_HORIZON_STEPS)).round().long().unique()
    return tuple(part[:, steps] for part in parts)


def _contexts(length: int, marks: set[int]) -> tuple[int, ...]:
    spaced = {round(length ** (index / (NUM_CONTEXTS - 1))) for index in range(NUM_CONTEXTS)}
    return tuple(sorted({0, 1, 2, 3, *spaced, *(mark for mark in marks if mark <= length)} - {length + 1, length + 2}))


def _smallest_sufficient(nested: NestedErrors) -> int:
    full = nested.blocks[-1]
    allowed = (1 + TOLERANCE) * float(full.mean())
    for steps, blocks in zip(nested.contexts, nested.blocks, strict=True):
        excess = blocks - full
        standard_error = float(excess.std()) / math.sqrt(len(excess)) if len(excess) > 1 else 0.0
        if float(blocks.mean()) <= allowed or float(excess.mean()) <= MIN_STANDARD_ERRORS * standard_error:
            return steps
    return nested.contexts[-1]


def _snap_to_season(steps: int, season: Season, horizon: int) -> int:
    """A context just short of a season holds it for the last steps of the horizon only: the season is what is needed."""
    if season is NO_SEASON or not max(season.steps / 2, season.steps - horizon) < steps <= season.steps:
        return steps
    return season.steps


def _gain(nested: NestedErrors, steps: int) -> float:
    """Share of the error that the far half of the need takes away: what a model without reach cannot gain."""
    errors = dict(zip(nested.contexts, nested.errors, strict=True))
    shorter = max(context for context in nested.contexts if context <= steps // 2)
    return 1.0 - errors[steps] / errors[shorter] if errors[shorter] > 0 else 0.0
