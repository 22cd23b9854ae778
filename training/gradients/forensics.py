"""Where a step stopped being a number: weights, input, layer, loss or gradient, and which windows it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.forecaster import Forecaster, ForecastInputs, ScaledForecast, mean_of_parts
from models.minimal import MinimalLayer
from training.data.windows import WindowBatch
from training.gradients.norms import named_layer_parameters
from training.precision import Precision, autocast

MAX_NAMED_WINDOWS = 5
RECURRENT = (nn.RNNBase, MinimalLayer)
Stage = Literal["weights", "input", "scaling", "layer", "loss", "gradient", "norm"]
_IN_WORDS: dict[Stage, str] = {
    "weights": "the weights of {}, which the update before left that way",
    "input": "the input",
    "scaling": "the scaled input",
    "layer": "{}",
    "loss": "the loss; every layer before it is finite",
    "gradient": "the gradient of {}; the loss is finite",
    "norm": "the norm of the gradient, mostly of {}; every single gradient is finite",
}
LossFunction = Callable[[ScaledForecast, Tensor, Tensor, Tensor], Tensor]


class StepSettings(NamedTuple):
    """How a step turns windows into a loss and a gradient.

    Attributes:
        loss_function: Of forecast, target, target mask and scale floor.
        tbptt_steps: Truncation of the gradient through time; None = the whole context.
        precision: Arithmetic of the network.
        with_gradient: False for validation, which ends at the loss.
    """

    loss_function: LossFunction
    tbptt_steps: int | None = None
    precision: Precision = "float32"
    with_gradient: bool = True


@dataclass(frozen=True)
class NonFinitePlace:
    """The first non-finite value of a step, forward from the input to the loss, then back from the loss.

    Attributes:
        stage: What kind of value it is.
        layer: The layer it belongs to; empty where it belongs to none. The gradient of `loss` is what the loss hands to
            the last layer.
        rows: Windows of the batch it came from; empty if it came from all alike.
        is_certain: False if no window is non-finite by itself and `rows` are the ones with the largest values.
    """

    stage: Stage
    layer: str = ""
    rows: tuple[int, ...] = ()
    is_certain: bool = True

    def describe(self, batch: WindowBatch, ids: Sequence[str]) -> str:
        """The place and its windows, at most five by series and cutoff (rows known)."""
        place = f"first in {_IN_WORDS[self.stage].format(self.layer)}"
        if not self.rows:
            return place
        shown = [(ids[int(batch.series[row])], int(batch.cutoff[row])) for row in self.rows[:MAX_NAMED_WINDOWS]]
        names = ", ".join(f"series {name!r} at row {cutoff}" for name, cutoff in shown)
        count = len(self.rows)
        some = f"{count} of {len(batch.cutoff)} windows, first " if count > MAX_NAMED_WINDOWS else "windows: "
        return f"{place}; {some if self.is_certain else 'the largest windows: '}{names}"


@dataclass
class _Watch:
    """What the hooks saw of a batch of `count` windows."""

    count: int
    forward: NonFinitePlace | None = None
    backward: set[str] = field(default_factory=set)

    def see(self, stage: Stage, name: str, value: object, has_states: bool = False) -> None:
        """Note the first value that is not finite.

        Args:
            stage: What kind of value it is.
            name: Of its layer.
            value: A tensor, or tensors.
            has_states: Whether the tensors after the first are states of a recurrent layer: windows second.
        """
        if self.forward is None and not _is_finite(value):
            bad = torch.zeros(self.count, dtype=torch.bool)
            for index, tensor in enumerate(_tensors(value)):
                windows_first = tensor.shape[0] == self.count and not (has_states and index)
                by_window = tensor.detach() if windows_first else tensor.detach().transpose(0, 1)
                bad |= ~torch.isfinite(by_window).flatten(1).all(dim=1).cpu()
            self.forward = NonFinitePlace(stage, name, _rows(bad))


def forward(
    forecaster: Forecaster, batch: WindowBatch, scale_floor: Float[Tensor, "B 1"], settings: StepSettings
) -> tuple[ScaledForecast, Float[Tensor, ""]]:
    """The forward pass of a step: forecast and loss, as the training loop computes them."""
    with autocast(settings.precision, batch.target.device):
        parts = forecaster.forward_parts(batch.inputs, batch.target, batch.target_mask, settings.tbptt_steps)
        loss = mean_of_parts(
            parts, lambda forecast: settings.loss_function(forecast, batch.target, batch.target_mask, scale_floor)
        )
        # What is not finite in a part is not finite in the mean.
        return parts[0].forecast._replace(prediction=mean_of_parts(parts, lambda forecast: forecast.prediction)), loss


def locate_non_finite(
    forecaster: Forecaster, batch: WindowBatch, scale_floor: Float[Tensor, "B 1"], settings: StepSettings
) -> NonFinitePlace | None:
    """Run a step once more and watch every layer, forward and backward; weights and their gradients stay as they are.

    Args:
        forecaster: The network as it was at the step, in the step's mode.
        batch: The step's windows.
        scale_floor: Smallest scale of each window's errors.
        settings: Loss, truncation and precision.

    Returns:
        The first non-finite value; None if there is none, as when dropout fell differently.
    """
    for layer, _, parameter in named_layer_parameters(forecaster):
        if not _is_finite(parameter):
            return NonFinitePlace("weights", layer)
    bad_inputs = _bad_inputs(batch)
    if bool(bad_inputs.any()):
        return NonFinitePlace("input", rows=_rows(bad_inputs))
    context = batch.inputs.context.detach().requires_grad_(settings.with_gradient)
    watched = batch._replace(inputs=batch.inputs._replace(context=context))
    watch = _Watch(len(batch.cutoff))
    with torch.set_grad_enabled(settings.with_gradient), _hooks(forecaster, watch):
        forecast, loss = forward(forecaster, watched, scale_floor, settings)
        if watch.forward is not None:
            return watch.forward
        if not _is_finite(loss):
            return _in_loss(forecast, watched, scale_floor, settings)
        return _in_gradient(forecaster, loss, context, watch) if settings.with_gradient else None


def _in_loss(
    forecast: ScaledForecast, batch: WindowBatch, scale_floor: Tensor, settings: StepSettings
) -> NonFinitePlace:
    """The windows whose own loss is not finite; if only their sum is not, the largest ones."""
    losses = torch.stack(
        [
            settings.loss_function(
                ScaledForecast(*(part[row : row + 1] for part in forecast)),
                batch.target[row : row + 1], batch.target_mask[row : row + 1], scale_floor[row : row + 1],
            ).detach()
            for row in range(len(batch.cutoff))
        ]
    )  # fmt: skip
    bad = ~torch.isfinite(losses) | _bad_forecasts(forecast)
    if bool(bad.any()):
        return NonFinitePlace("loss", rows=_rows(bad))
    return NonFinitePlace("loss", rows=_largest(losses), is_certain=False)


def _in_gradient(forecaster: Forecaster, loss: Tensor, context: Tensor, watch: _Watch) -> NonFinitePlace | None:
    """From the loss back to the input: the first layer that turned a finite gradient into one that is not."""
    named = named_layer_parameters(forecaster)
    targets = [context, *(parameter for _, _, parameter in named)]
    of_window, *of_parameters = torch.autograd.grad(loss, targets, materialize_grads=True, allow_unused=True)
    gradients = [(layer, gradient) for (layer, _, _), gradient in zip(named, of_parameters, strict=True)]
    bad_rows = ~torch.isfinite(of_window).all(dim=1)
    is_certain = bool(bad_rows.any())
    rows = _rows(bad_rows) if is_certain else _largest(of_window.double().square().sum(dim=1))
    bad_layers = {layer for layer, gradient in gradients if not _is_finite(gradient)}
    above = "loss"
    for layer in reversed(forecaster.layers()):
        if layer in watch.backward:
            return NonFinitePlace("gradient", above, rows, is_certain)
        if layer in bad_layers:
            return NonFinitePlace("gradient", layer, rows, is_certain)
        above = layer
    if bad_layers:
        return NonFinitePlace("gradient", min(bad_layers), rows, is_certain)
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for _, gradient in gradients]))
    if _is_finite(total):
        return None
    largest = max(gradients, key=lambda pair: float(torch.linalg.vector_norm(pair[1].double())))
    return NonFinitePlace("norm", largest[0], rows, is_certain)


@contextmanager
def _hooks(forecaster: Forecaster, watch: _Watch) -> Iterator[None]:
    """Watch the scaler and every layer while the context lasts."""

    def after(stage: Stage, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _arguments: object, output: object) -> None:
            watch.see(stage, name, output, has_states=isinstance(module, RECURRENT))
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: None if _is_finite(gradient) else watch.backward.add(name))

        return hook

    def before(module: nn.Module, arguments: Any) -> None:
        # Covariates are standardised outside of any module; what arrives at a layer shows it.
        watch.see("scaling", "", arguments, has_states=isinstance(module, RECURRENT))

    layers = forecaster.layers()
    handles = [forecaster.scaler.register_forward_hook(after("scaling", ""))]
    handles += [module.register_forward_pre_hook(before) for module in layers.values()]
    handles += [module.register_forward_hook(after("layer", name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bad_inputs(batch: WindowBatch) -> Tensor:
    tensors = ForecastInputs(*batch.inputs)
    bad = ~torch.isfinite(batch.target) & batch.target_mask
    flags = bad.any(dim=1)
    for tensor in (tensors.context, tensors.past_covariates, tensors.future_covariates, tensors.static_covariates):
        flags = flags | ~torch.isfinite(tensor).flatten(1).all(dim=1)
    return flags


def _bad_forecasts(forecast: ScaledForecast) -> Tensor:
    bad = ~torch.isfinite(forecast.prediction.detach()).flatten(1).all(dim=1)
    return bad | ~torch.isfinite(forecast.loc.detach() + forecast.scale.detach()).flatten(1).all(dim=1)


def _rows(flags: Tensor) -> tuple[int, ...]:
    """Positions of the flagged windows; none if all are: then it is not the windows."""
    rows = tuple(int(row) for row in flags.nonzero().flatten().tolist())
    return () if len(rows) == len(flags) > 1 else rows


def _largest(sizes: Tensor) -> tuple[int, ...]:
    count = min(MAX_NAMED_WINDOWS, len(sizes))
    return tuple(sorted(int(row) for row in sizes.topk(count).indices.tolist()))


def _is_finite(value: object) -> bool:
    return all(bool(torch.isfinite(tensor.detach()).all()) for tensor in _tensors(value) if tensor.is_floating_point())


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _tensors(part)] if isinstance(output, tuple | list) else []
