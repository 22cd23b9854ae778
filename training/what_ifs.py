"""A failed step once more with one thing changed: which of the cheap changes would have kept it finite."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import AnyNetworkConfig, RecurrentConfig, usual_scaler
from models.forecaster import Forecaster, ForecastInputs
from models.registry import build_forecaster
from training.data.windows import WindowBatch
from training.forensics import ForensicsManifest
from training.gradients.forensics import NonFinitePlace, StepSettings, forward
from training.gradients.norms import GradientNorms, total_norm
from training.losses import build_loss

# A truncation that short lets nothing explode, and that long still learns something.
TRUNCATION_STEPS = 16
CLIP_NORM = 1.0


@dataclass(frozen=True)
class WhatIf:
    """The step with one thing changed.

    Attributes:
        name: Stable identifier of the change.
        change: The change in words.
        setting: `dotted.key=value` that makes it; empty if no setting does.
        loss: Loss then.
        grad_norm: Norm of the gradient then; None for validation.
        is_finite: Whether the step would have been made.
    """

    name: str
    change: str
    setting: str
    loss: float
    grad_norm: float | None
    is_finite: bool

    def outcome(self) -> str:
        """Loss and gradient in words."""
        text = f"loss {self.loss:.4g}"
        return text if self.grad_norm is None else f"{text}, gradient norm {self.grad_norm:.4g}"


@dataclass(frozen=True)
class _Variant:
    name: str
    change: str
    setting: str
    forecaster: Forecaster
    batch: WindowBatch
    floor: Tensor
    settings: StepSettings


def try_changes(
    forecaster: Forecaster,
    batch: WindowBatch,
    scale_floor: Tensor,
    settings: StepSettings,
    manifest: ForensicsManifest,
    place: NonFinitePlace | None,
) -> tuple[WhatIf, ...]:
    """Repeat a step with every change that makes sense for it.

    Args:
        forecaster: The network before the step; left as it is.
        batch: The windows.
        scale_floor: Smallest scale of each window's errors.
        settings: How the step computed.
        manifest: What the step was.
        place: Where it broke; None = nothing to try.

    Returns:
        One result per change. Clipping comes last: it is computed from the step as it was.
    """
    if place is None:
        return ()
    step = _Variant("", "", "", forecaster, batch, scale_floor, settings)
    tried = [_try(variant) for variant in _variants(step, manifest, place)]
    if settings.with_gradient:
        tried.append(_try_clipping(step))
    return tuple(tried)


def _variants(step: _Variant, manifest: ForensicsManifest, place: NonFinitePlace) -> Iterator[_Variant]:
    config, settings = manifest.network, step.settings
    count = len(step.batch.cutoff)
    if 0 < len(place.rows) < count:
        keep = [row for row in range(count) if row not in set(place.rows)]
        words = f"without the {len(place.rows)} window(s) named above"
        yield _change(step, "without_windows", words, batch=_rows(step.batch, keep), floor=step.floor[keep])
    usual = usual_scaler(config.head)
    if config.scaler != usual:
        rescaled = _like(step.forecaster, config.model_copy(update={"scaler": usual}))
        yield _change(step, "scaler", "windows scaled by the network", f"model.scaler={usual}", forecaster=rescaled)
    if manifest.loss == "mse":
        huber = build_loss("huber", config.output_levels, config.head).__call__
        words = "a loss that grows linearly, not with the square"
        yield _change(step, "loss", words, "fit.loss=huber", settings=settings._replace(loss_function=huber))
    backward = place.stage in ("gradient", "norm")
    if backward and isinstance(config, RecurrentConfig) and config.recurrent_steps > TRUNCATION_STEPS:
        shorter = settings._replace(tbptt_steps=TRUNCATION_STEPS)
        setting = f"fit.tbptt_steps={TRUNCATION_STEPS}"
        yield _change(step, "truncation", f"gradient through {TRUNCATION_STEPS} steps only", setting, settings=shorter)
    if manifest.precision == "bfloat16":
        full = settings._replace(precision="float32")
        yield _change(step, "float32", "full instead of mixed precision", "fit.precision=float32", settings=full)
    if manifest.precision != "float64":
        yield _change(
            step, "float64", "numbers of twice the width", "fit.precision=float64",
            forecaster=copy.deepcopy(step.forecaster).double(), batch=_double(step.batch), floor=step.floor.double(),
            settings=settings._replace(precision="float64"),
        )  # fmt: skip
    fresh = _fresh(step.forecaster, manifest.network, manifest.seed)
    yield _change(step, "fresh_weights", "the weights the fit began with", forecaster=fresh)
    if isinstance(config, RecurrentConfig) and _is_special(config):
        plain = config.model_copy(update={"initialization": "torch", "init_gain": None, "forget_bias": None})
        gain = config.init_gain not in (None, 1.0)
        setting = "model.init_gain=null" if gain else "model.initialization=torch"
        weights = _fresh(step.forecaster, plain, manifest.seed)
        yield _change(step, "plain_weights", "the weights torch would begin with", setting, forecaster=weights)


def _is_special(config: RecurrentConfig) -> bool:
    return config.initialization != "torch" or config.init_gain not in (None, 1.0) or config.forget_bias is not None


def _change(step: _Variant, name: str, words: str, setting: str = "", **parts: object) -> _Variant:
    return _Variant(**(vars(step) | {"name": name, "change": words, "setting": setting} | parts))


def _try(variant: _Variant) -> WhatIf:
    forecaster, settings = variant.forecaster, variant.settings
    forecaster.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(settings.with_gradient):
        _, loss = forward(forecaster, variant.batch, variant.floor, settings)
        total = None
        if settings.with_gradient:
            loss.backward()
            total = float(total_norm(GradientNorms(forecaster).measure()))
    forecaster.zero_grad(set_to_none=True)
    value = loss.item()
    is_finite = math.isfinite(value) and (total is None or math.isfinite(total))
    return WhatIf(variant.name, variant.change, variant.setting, value, total, is_finite)


def _try_clipping(step: _Variant) -> WhatIf:
    """Clipping divides by the norm of this very gradient: it can bound what is finite and nothing else."""
    unclipped = _try(step)
    total = unclipped.grad_norm
    clipped = total if total is None or not math.isfinite(total) else min(total, CLIP_NORM)
    words = "clipping in this step (it helps in the steps before)"
    return WhatIf("clipping", words, f"fit.max_grad_norm={CLIP_NORM:g}", unclipped.loss, clipped, unclipped.is_finite)


def _like(forecaster: Forecaster, config: AnyNetworkConfig) -> Forecaster:
    """A network of another description with the same weights, where it has them."""
    other = build_forecaster(config)
    reference = next(forecaster.parameters())
    other = other.to(reference.device, reference.dtype).train(forecaster.training)
    # A learned scaler's weights have no place in a network without one.
    other.load_state_dict(forecaster.state_dict(), strict=False)
    return other


def _fresh(forecaster: Forecaster, config: AnyNetworkConfig, seed: int) -> Forecaster:
    """The network at its initialisation: same seed, same statistics of the covariates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_forecaster(config)
    reference = next(forecaster.parameters())
    fresh = fresh.to(reference.device, reference.dtype).train(forecaster.training)
    for name, buffer in forecaster.named_buffers():
        fresh.get_buffer(name).copy_(buffer)
    return fresh


def _rows(batch: WindowBatch, rows: list[int]) -> WindowBatch:
    inputs = ForecastInputs(*(tensor[rows] for tensor in batch.inputs))
    target, mask, series, cutoff = (tensor[rows] for tensor in batch[1:])
    return WindowBatch(inputs, target, mask, series, cutoff)


def _double(batch: WindowBatch) -> WindowBatch:
    inputs = (tensor.double() if tensor.is_floating_point() else tensor for tensor in batch.inputs)
    return batch._replace(inputs=ForecastInputs(*inputs), target=batch.target.double())


def to_device(batch: WindowBatch, device: torch.device) -> WindowBatch:
    """The batch on a device."""
    inputs = ForecastInputs(*(tensor.to(device) for tensor in batch.inputs))
    target, mask, series, cutoff = (tensor.to(device) for tensor in batch[1:])
    return WindowBatch(inputs, target, mask, series, cutoff)
