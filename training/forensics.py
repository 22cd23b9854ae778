"""The step at which a fit stopped being finite, kept in a directory of its own, to be repeated at leisure.

    forensics.json        what the step was: network, loss, settings, windows, where it broke; sha256 of the tensors
    weights.safetensors   the network before the step
    batch.safetensors     the windows, their level and scale, states of the random generators, norms of the gradient

Nothing is pickled, and no data file is needed to repeat the step. Together at most `MAX_BYTES`: of a batch that is too
large the named windows are kept and as many others as fit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.config import AnyNetworkConfig
from models.forecaster import Forecaster
from training.config import FitConfig, LossName
from training.data.windows import WindowBatch
from training.errors import NumericalError
from training.gradients.forensics import NonFinitePlace, Stage, StepSettings, locate_non_finite
from training.gradients.norms import GradientNorms
from training.losses import ForecastLoss
from training.precision import Precision

SCHEMA_VERSION = 1
DIRECTORY = "forensics"
MANIFEST, WEIGHTS, BATCH = "forensics.json", "weights.safetensors", "batch.safetensors"
MAX_BYTES = 256 * 2**20
Kind = Literal["step", "validation"]
_REMEDY = "Check that series for extreme values, lower optimizer.learning_rate tenfold, or set fit.max_grad_norm."


class Place(BaseModel):
    """`NonFinitePlace` as JSON; `rows` count within the recorded windows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    layer: str = ""
    rows: tuple[int, ...] = ()
    is_certain: bool = True


class ForensicsManifest(BaseModel):
    """The content of `forensics.json`.

    Attributes:
        schema_version: Layout of the directory; another one is refused.
        kind: `step`, or `validation` for a validation loss, which has no gradient.
        step: Number of the update that was not made; of a validation loss, of the last one made.
        network: Architecture and sizes, as in a bundle.
        loss: Name of the loss.
        tbptt_steps: Truncation of backpropagation.
        precision: Arithmetic of the step.
        max_grad_norm: Where the gradient would have been clipped.
        learning_rate: Of the update that was not made.
        seed: Of the fit; the network at its initialisation follows from it.
        device: Where the step was computed.
        num_threads: CPU threads; sums depend on it in their last bits.
        series: Name of each recorded window's series.
        cutoffs: Rows of that series that were known.
        batch_size: Windows of the step; more than recorded if they were too large to keep.
        place: The first non-finite value; None if the step did not break when it was repeated at once.
        error: Where, contract, actual of the error that ended the fit.
        versions: Versions of torch and of the processor's instruction set that computed it.
        sha256: Hash of the two other files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    step: int = Field(ge=0)
    network: AnyNetworkConfig
    loss: LossName
    tbptt_steps: int | None = Field(default=None, ge=1)
    precision: Precision = "float32"
    max_grad_norm: float | None = Field(default=None, gt=0)
    learning_rate: float | None = None
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?|mps(:\d+)?)$")
    num_threads: int = Field(default=1, ge=1, le=4096)
    series: tuple[str, ...]
    cutoffs: tuple[int, ...]
    batch_size: int = Field(ge=1)
    place: Place | None
    error: tuple[str, str, str]
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class FailedStep:
    """A step that was refused because a number was none, as it stands in memory.

    Attributes:
        forecaster: With the weights before the update, in the mode of the step; the gradients of its parameters are
            still those of the step.
        batch: Its windows.
        scale_floor: Smallest scale of each window's errors.
        loss_function: What was minimised.
        fit: Settings of the loop.
        step: Number of the update.
        random: States of the random generators before the batch was drawn, as `checkpoint.random_state` names them.
        ids: Names of all series.
        learning_rate: Of the update; None for a validation loss.
        kind: A training step, or one batch of validation.
    """

    forecaster: Forecaster
    batch: WindowBatch
    scale_floor: Float[Tensor, "B 1"]
    loss_function: ForecastLoss
    fit: FitConfig
    step: int
    random: Mapping[str, Tensor]
    ids: tuple[str, ...]
    learning_rate: float | None = None
    kind: Kind = "step"

    @property
    def settings(self) -> StepSettings:
        """How the step computed."""
        # A named tuple that can be called is no Callable to mypy; its method is.
        loss_function = self.loss_function.__call__
        if self.kind == "validation":
            return StepSettings(loss_function, with_gradient=False)
        return StepSettings(loss_function, self.fit.tbptt_steps, self.fit.precision)


def explain_non_finite(error: NumericalError, failed: FailedStep, directory: Path) -> NumericalError:
    """The error with the place and the windows in its sentence; the step is recorded in a directory.

    Args:
        error: As the step raised it.
        failed: The step.
        directory: Where to record it; a record of an earlier stop is replaced.

    Returns:
        The error to raise instead. A record that cannot be written is said there and does not replace the error.
    """
    # Before the step is run again: these are the gradients that were refused.
    norms = GradientNorms(failed.forecaster).measure().detach() if failed.kind == "step" else torch.zeros(0)
    remedy = f"The weights were not updated. {_REMEDY}" if failed.kind == "step" else _REMEDY
    parts = []
    place = None
    try:
        with replayed_random(failed.random, failed.batch.target.device):
            place = locate_non_finite(failed.forecaster, failed.batch, failed.scale_floor, failed.settings)
        if place is not None:
            parts.append(f"It is {place.describe(failed.batch, failed.ids)}.")
        parts.append(remedy)
        parts.append(write_forensics(directory, failed, error, place, norms))
    except (OSError, RuntimeError) as trouble:
        parts = parts or [remedy]
        parts.append(f"The step could not be recorded: {str(trouble).splitlines()[0]}.")
    explained = NumericalError(error.where, error.contract, error.actual, " ".join(parts))
    explained.loss, explained.step = error.loss, failed.step
    return explained


def write_forensics(
    directory: Path, failed: FailedStep, error: NumericalError, place: NonFinitePlace | None, norms: Tensor
) -> str:
    """Record a failed step; the directory appears complete or not at all.

    Args:
        directory: Where to; replaced if it exists.
        failed: The step.
        error: Why it was refused.
        place: The first non-finite value.
        norms: Norm of the refused gradient per leaf, as `GradientNorms.measure` orders them.

    Returns:
        A sentence: how to repeat the step, or why it is not recorded.

    Raises:
        OSError: If the directory cannot be written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in failed.forecaster.state_dict().items()}
    with torch.no_grad():
        scaled = failed.forecaster.scale_window(failed.batch.inputs)
    windows = {
        **failed.batch.inputs._asdict(),
        "target": failed.batch.target,
        "target_mask": failed.batch.target_mask,
        "scale_floor": failed.scale_floor,
        "loc": scaled.loc,
        "scale": scaled.scale,
    }
    named = () if place is None else place.rows
    rows = _rows_that_fit(weights, windows, named)
    if not len(rows):
        return f"The step is not recorded: weights and windows take more than {MAX_BYTES >> 20} MiB."
    tensors = {name: tensor.detach()[rows.to(tensor.device)].cpu().contiguous() for name, tensor in windows.items()}
    tensors |= {name: state.cpu() for name, state in failed.random.items()} | {"norms": norms.cpu().contiguous()}
    if error.loss is not None:
        tensors["loss"] = torch.tensor(error.loss, dtype=torch.float64)
    files = {WEIGHTS: safetensors.torch.save(weights), BATCH: safetensors.torch.save(tensors)}
    manifest = _describe(failed, error, place, rows)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    document = manifest.model_copy(update={"sha256": hashes}).model_dump(mode="json")
    files[MANIFEST] = json.dumps(document, indent=1, allow_nan=False).encode()
    _replace_directory(directory, files)
    return f"Repeat the step: gradcast diagnose --replay {directory}"


@contextmanager
def replayed_random(random: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
    """Draw dropout as the step did; afterwards the generators are where they were before."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        torch.set_rng_state(random["random.torch"])
        if devices and "random.cuda" in random:
            torch.cuda.set_rng_state(random["random.cuda"], device)
        yield


def _describe(
    failed: FailedStep, error: NumericalError, place: NonFinitePlace | None, rows: Tensor
) -> ForensicsManifest:
    position = {int(row): index for index, row in enumerate(rows.tolist())}
    kept = None if place is None else tuple(position[row] for row in place.rows if row in position)
    fit, device = failed.fit, failed.batch.target.device
    return ForensicsManifest(
        kind=failed.kind,
        step=failed.step,
        network=failed.forecaster.config,
        loss=failed.loss_function.name,
        tbptt_steps=failed.settings.tbptt_steps,
        precision=failed.settings.precision,
        max_grad_norm=fit.max_grad_norm,
        learning_rate=failed.learning_rate,
        seed=fit.seed,
        device=str(device),
        num_threads=torch.get_num_threads(),
        series=tuple(failed.ids[index] for index in failed.batch.series[rows.to(device)].tolist()),
        cutoffs=tuple(failed.batch.cutoff[rows.to(device)].tolist()),
        batch_size=len(failed.batch.cutoff),
        place=None
        if place is None or kept is None
        else Place(stage=place.stage, layer=place.layer, rows=kept, is_certain=place.is_certain),
        error=(error.where, error.contract, error.actual),
        versions=describe_versions(),
    )


def describe_versions() -> dict[str, str]:
    """What a result depends on in its last bits."""
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def _rows_that_fit(weights: Mapping[str, Tensor], windows: Mapping[str, Tensor], named: tuple[int, ...]) -> Tensor:
    """Windows that are recorded: all, or the named ones first and then from the front, in the order of the batch."""
    count = len(windows["target"])
    per_window = sum(tensor.nbytes for tensor in windows.values()) / count
    room = MAX_BYTES - sum(tensor.nbytes for tensor in weights.values())
    num_kept = max(0, min(count, int(room / per_window)))
    chosen = [*named, *(row for row in range(count) if row not in set(named))][:num_kept]
    return torch.tensor(sorted(chosen), dtype=torch.int64)


def _replace_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        staging.chmod(0o755)
        if directory.exists():
            shutil.rmtree(directory)
        staging.replace(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
