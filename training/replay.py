"""Repeat the step at which a fit stopped being finite, from its record alone, and find out what would have held.

result = replay(Path("runs/bike/forensics"))
result.is_reproduced            the same place, the same loss and gradient norms to the last bit
result.what_ifs                 the step once more with one thing changed
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.forecaster import Forecaster
from training.data.windows import WindowBatch
from training.errors import ForensicsError
from training.forensics import Kind, describe_versions, replayed_random
from training.forensics_reader import RecordedStep, read_forensics
from training.gradients.forensics import MAX_NAMED_WINDOWS, NonFinitePlace, StepSettings, forward, locate_non_finite
from training.gradients.norms import GradientNorms, total_norm
from training.what_ifs import WhatIf, to_device, try_changes

# In units of a window's scale a loss is about 1; a change that keeps it finite at 1e30 is no advice.
PLAUSIBLE_LOSS = 1e6


@dataclass(frozen=True)
class ReplayResult:
    """What the repeated step did.

    Attributes:
        directory: The record.
        kind: A training step, or one batch of validation.
        step: Its number.
        error: The error that ended the fit, in a sentence.
        place: The first non-finite value when repeated; None if there was none.
        description: The place and its windows in words.
        windows: Series and cutoff (rows known) of the windows it came from.
        loss: Loss when repeated.
        grad_norm: Norm of the gradient when repeated; None for validation.
        largest_weight: Largest magnitude among the weights.
        largest_input: Largest magnitude among the observed values of `y`.
        is_same_place: Whether it broke where it broke then.
        is_same_loss: Whether loss and gradient norms are the same to the last bit; None if that cannot be asked:
            the record holds part of the batch, or it was computed on another device.
        notes: Why a difference may be no fault.
        what_ifs: The step with one thing changed.
    """

    directory: Path
    kind: Kind
    step: int
    error: str
    place: NonFinitePlace | None
    description: str
    windows: tuple[tuple[str, int], ...]
    loss: float
    grad_norm: float | None
    largest_weight: float
    largest_input: float
    is_same_place: bool
    is_same_loss: bool | None
    notes: tuple[str, ...]
    what_ifs: tuple[WhatIf, ...]

    @property
    def is_reproduced(self) -> bool:
        """Whether the step broke again in the same place, with the same numbers as far as they can be compared."""
        return self.is_same_place and self.is_same_loss is not False

    def to_dict(self) -> dict[str, Any]:
        """As JSON; numbers that are none become strings."""
        document = asdict(self) | {"directory": str(self.directory), "is_reproduced": self.is_reproduced}
        return {name: _as_json(value) for name, value in document.items()}


def replay(directory: Path) -> ReplayResult:
    """Repeat a recorded step.

    Args:
        directory: `forensics/` of a run, or the run's own directory.

    Returns:
        Whether it broke again, where, and what would have made it finite.

    Raises:
        ForensicsError: If the record is damaged or was changed, or the step is too large for this machine.
    """
    recorded = read_forensics(directory)
    try:
        with _as_recorded(recorded) as device:
            return _repeat(directory, recorded, device)
    except (RuntimeError, MemoryError) as error:
        # What torch raises for lack of memory, and for states of generators it cannot read.
        summary = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ForensicsError(str(directory), "a step that can be repeated on this machine", summary) from None


def _repeat(directory: Path, recorded: RecordedStep, device: torch.device) -> ReplayResult:
    manifest = recorded.manifest
    is_step = manifest.kind == "step"
    forecaster = recorded.forecaster.to(device).train(is_step)
    batch, floor = to_device(recorded.batch, device), recorded.scale_floor.to(device)
    settings = StepSettings(recorded.loss_function.__call__, manifest.tbptt_steps, manifest.precision, is_step)
    with replayed_random(recorded.random, device):
        loss, norms = _compute(forecaster, batch, floor, settings)
    with replayed_random(recorded.random, device):
        place = locate_non_finite(forecaster, batch, floor, settings)
    then = manifest.place
    is_same_place = (then is None and place is None) or (
        then is not None and place is not None and (then.stage, then.layer) == (place.stage, place.layer)
    )
    notes = _differences(recorded, device)
    is_comparable = manifest.batch_size == len(recorded.batch.cutoff) and str(device) == manifest.device
    with replayed_random(recorded.random, device):
        what_ifs = try_changes(forecaster, batch, floor, settings, manifest, place)
    rows = place.rows if place is not None else ()
    weights = [parameter.detach().abs().max() for parameter in forecaster.parameters()]
    where, contract, actual = manifest.error
    return ReplayResult(
        directory=directory,
        kind=manifest.kind,
        step=manifest.step,
        error=f"{where} must be {contract}, but is {actual} instead.",
        place=place,
        description="everything is finite" if place is None else place.describe(batch, recorded.ids),
        windows=tuple((manifest.series[row], manifest.cutoffs[row]) for row in rows),
        loss=loss,
        grad_norm=float(total_norm(norms)) if is_step else None,
        largest_weight=float(torch.stack(weights).max()),
        largest_input=float(batch.inputs.context.where(batch.inputs.observed_mask, 0.0).abs().max()),
        is_same_place=is_same_place,
        is_same_loss=_is_same(recorded, loss, norms, batch, forecaster) if is_comparable else None,
        notes=notes,
        what_ifs=what_ifs,
    )


def _compute(forecaster: Forecaster, batch: WindowBatch, floor: Tensor, settings: StepSettings) -> tuple[float, Tensor]:
    """Loss and gradient norms, computed as the training loop does it, down to the order of the sums."""
    forecaster.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(settings.with_gradient):
        _, loss = forward(forecaster, batch, floor, settings)
        if not settings.with_gradient:
            return loss.item(), torch.zeros(0)
        loss.backward()
    norms = GradientNorms(forecaster).measure().detach()
    forecaster.zero_grad(set_to_none=True)
    return loss.item(), norms


def _is_same(recorded: RecordedStep, loss: float, norms: Tensor, batch: WindowBatch, forecaster: Forecaster) -> bool:
    """Loss, gradient norms and the state of the scaler, bit by bit; one NaN is as good as another."""
    with torch.no_grad():
        scaled = forecaster.scale_window(batch.inputs)
    pairs = [(recorded.norms, norms), (recorded.scaler_state[0], scaled.loc), (recorded.scaler_state[1], scaled.scale)]
    is_same_loss = recorded.loss is None or recorded.loss == loss or (math.isnan(recorded.loss) and math.isnan(loss))
    return is_same_loss and all(
        then.shape == now.shape and torch.allclose(then, now.cpu(), rtol=0.0, atol=0.0, equal_nan=True)
        for then, now in pairs
    )


def _differences(recorded: RecordedStep, device: torch.device) -> tuple[str, ...]:
    manifest, kept = recorded.manifest, len(recorded.batch.cutoff)
    notes = []
    if kept < manifest.batch_size:
        notes.append(f"The record holds {kept} of {manifest.batch_size} windows: loss and gradient are theirs alone.")
    if str(device) != manifest.device:
        notes.append(f"Computed on {device}; the fit was on {manifest.device}, so the last digits differ.")
    for name, now in describe_versions().items():
        then = manifest.versions.get(name, now)
        if then != now:
            notes.append(f"{name} was {then[:40]} and is {now}: the last digits may differ.")
    return tuple(notes)


@contextmanager
def _as_recorded(recorded: RecordedStep) -> Iterator[torch.device]:
    """The device of the fit if it is here, and its number of threads: sums depend on both in their last bits."""
    kind = recorded.manifest.device.partition(":")[0]
    is_here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    before = torch.get_num_threads()
    torch.set_num_threads(recorded.manifest.num_threads)
    try:
        yield torch.device(recorded.manifest.device if is_here else "cpu")
    finally:
        torch.set_num_threads(before)


def describe_replay(result: ReplayResult) -> str:
    """The result for a terminal: what happened, whether it happened again, what would have held."""
    what = f"step {result.step}" if result.kind == "step" else f"validation after step {result.step}"
    lines = [f"{what}, from {result.directory}", f"  then      {result.error}", f"  repeated  {_repeated(result)}"]
    lines.append(f"  place     {result.description}")
    sizes = f"loss {result.loss:.6g}"
    if result.grad_norm is not None:
        sizes += f", gradient norm {result.grad_norm:.6g}"
    sizes += f", largest weight {result.largest_weight:.3g}, largest input {result.largest_input:.3g}"
    lines.append(f"  sizes     {sizes}")
    lines += [f"  note      {note}" for note in result.notes]
    if result.what_ifs:
        lines += ["", "what would have made this step finite"]
        width = max(len(what_if.change) for what_if in result.what_ifs)
        lines += [f"  {'yes' if w.is_finite else 'no ':<4}{w.change:<{width}}  {w.outcome()}" for w in result.what_ifs]
    return "\n".join([*lines, "", conclude(result)])


def _repeated(result: ReplayResult) -> str:
    if not result.is_same_place:
        return "differently: it does not break in the same place"
    same = {True: "loss and gradient norms equal to the last bit", False: "with another loss", None: ""}
    numbers = same[result.is_same_loss]
    return "the same place" + (f", {numbers}" if numbers else "")


def conclude(result: ReplayResult) -> str:
    """One sentence: whose fault it is, and what to set."""
    place, held = result.place, {what_if.name: what_if for what_if in result.what_ifs if what_if.is_finite}
    if place is None:
        return "The step is finite here; compare the notes."
    smaller = "Lower optimizer.learning_rate tenfold, or set fit.max_grad_norm=1."
    remedy = next(
        (
            f" This step would have held with --set {what_if.setting}."
            for what_if in held.values()
            if what_if.setting and what_if.loss < PLAUSIBLE_LOSS
        ),
        "",
    )
    if place.stage == "weights":
        return f"The update before left weights that are not finite: it was too large. {smaller}"
    if place.stage == "input":
        return "The data itself holds a value that is not finite; correct it."
    if "without_windows" in held:
        names = ", ".join(dict.fromkeys(repr(series) for series, _ in result.windows[:MAX_NAMED_WINDOWS]))
        return f"These windows alone break the step: look at the values of series {names}.{remedy}"
    if "fresh_weights" in held:
        return (
            "The same windows are finite with the weights the fit began with: training made the weights too large. "
            f"{smaller}{remedy}"
        )
    if "plain_weights" in held:
        return f"The weights the fit began with are too large for a network of this kind.{remedy}"
    return f"Even the weights the fit began with break on these windows: their values are too large.{remedy}"


def _as_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _as_json(part) for name, part in value.items()}
    return [_as_json(part) for part in value] if isinstance(value, tuple | list) else value
