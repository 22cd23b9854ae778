"""Read a record of a failed step and prove that it is what was written: nothing in it is trusted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from models.errors import GradcastError
from models.forecaster import Forecaster, ForecastInputs
from models.registry import build_forecaster
from training.data.windows import WindowBatch
from training.errors import ForensicsError
from training.forensics import BATCH, DIRECTORY, MANIFEST, MAX_BYTES, SCHEMA_VERSION, WEIGHTS, ForensicsManifest
from training.losses import ForecastLoss, build_loss

# JSON of a batch's names; the tensors have the limit they were written with, and their headers.
MAX_MANIFEST_BYTES = 64 * 2**20
HEADER_BYTES = 2**20
_REMEDY = "The record is damaged or was changed; run the training again to get a new one."
_MASKS = ("observed_mask", "target_mask")
_FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class RecordedStep:
    """A failed step, rebuilt from its directory alone.

    Attributes:
        manifest: What it was.
        forecaster: With the weights before the update, on the CPU.
        batch: The windows; `series` counts the names of `ids`.
        scale_floor: Smallest scale of each window's errors.
        loss_function: What was minimised.
        scaler_state: Level and scale of every window, as they were.
        random: States of the random generators before the step.
        norms: Norm of the refused gradient per leaf; empty for validation.
        loss: The loss; None if it was not recorded.
        ids: Names of the series in the batch.
    """

    manifest: ForensicsManifest
    forecaster: Forecaster
    batch: WindowBatch
    scale_floor: Tensor
    loss_function: ForecastLoss
    scaler_state: tuple[Tensor, Tensor]
    random: dict[str, Tensor]
    norms: Tensor
    loss: float | None
    ids: tuple[str, ...]


def read_forensics(directory: Path) -> RecordedStep:
    """Read what `write_forensics` wrote.

    Args:
        directory: The record, or the directory of the run it lies in.

    Raises:
        ForensicsError: For an unknown schema version, a missing, foreign, linked or changed file, or a tensor that
            does not fit the network it describes.
    """
    if (directory / DIRECTORY / MANIFEST).is_file():
        directory = directory / DIRECTORY
    manifest = _read_manifest(directory)
    _validate_files(directory, manifest)
    forecaster = _read_network(directory, manifest)
    tensors = _read_tensors(directory / BATCH)
    _validate_batch(directory / BATCH, tensors, manifest)
    ids = tuple(dict.fromkeys(manifest.series))
    numbers = {name: number for number, name in enumerate(ids)}
    loss = tensors.get("loss")
    return RecordedStep(
        manifest,
        forecaster,
        WindowBatch(
            ForecastInputs(*(tensors[name] for name in ForecastInputs._fields)),
            tensors["target"],
            tensors["target_mask"],
            torch.tensor([numbers[name] for name in manifest.series], dtype=torch.int64),
            torch.tensor(manifest.cutoffs, dtype=torch.int64),
        ),
        tensors["scale_floor"],
        build_loss(manifest.loss, manifest.network.output_levels, manifest.network.head),
        (tensors["loc"], tensors["scale"]),
        {name: tensor for name, tensor in tensors.items() if name.startswith("random.")},
        tensors["norms"],
        None if loss is None else float(loss),
        ids,
    )


def _read_manifest(directory: Path) -> ForensicsManifest:
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ForensicsError(str(path), f"at most {MAX_MANIFEST_BYTES} bytes", f"{path.stat().st_size} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ForensicsError(
            str(directory), "the record of a non-finite step", f"without {MANIFEST}",
            "Name the forensics directory of a run that stopped at one.",
        ) from None  # fmt: skip
    except (OSError, ValueError, RecursionError) as error:
        raise ForensicsError(str(path), "a readable JSON document", type(error).__name__, _REMEDY) from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise ForensicsError(
            f"{path}: schema_version", f"{SCHEMA_VERSION}", repr(version)[:40], "Use the gradcast version that wrote it."
        )  # fmt: skip
    try:
        return ForensicsManifest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ForensicsError(f"{path}: {where}", "as the schema says", first["msg"][:200], _REMEDY) from None


def _validate_files(directory: Path, manifest: ForensicsManifest) -> None:
    if set(manifest.sha256) != {WEIGHTS, BATCH}:
        raise ForensicsError(f"{directory / MANIFEST}: sha256", f"of {WEIGHTS} and {BATCH}", "of others", _REMEDY)
    for name, expected in manifest.sha256.items():
        path = directory / name
        if path.is_symlink() or not path.is_file():
            raise ForensicsError(str(path), "a plain file", "absent, a link or a directory", _REMEDY)
        if path.stat().st_size > MAX_BYTES + HEADER_BYTES:
            raise ForensicsError(str(path), f"at most {MAX_BYTES >> 20} MiB", f"{path.stat().st_size >> 20} MiB")
        with path.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        if actual != expected:
            raise ForensicsError(str(path), f"of sha256 {expected[:12]}", f"of {actual[:12]}", _REMEDY)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ForensicsError(str(path), "a safetensors file", str(error)[:120], _REMEDY) from None


def _read_network(directory: Path, manifest: ForensicsManifest) -> Forecaster:
    path = directory / WEIGHTS
    tensors = _read_tensors(path)
    try:
        # Shapes are compared before memory is taken.
        with torch.device("meta"):
            network = build_forecaster(manifest.network)
    except GradcastError as error:
        raise ForensicsError(str(directory / MANIFEST), "of a network that can be built", str(error)[:200]) from None
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if actual != expected:
        odd = min(set(actual.items()) ^ set(expected.items()))[0]
        raise ForensicsError(str(path), "the tensors of the described network", f"different in {odd[:80]!r}", _REMEDY)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= set(_FLOATS):
        raise ForensicsError(str(path), "all float32 or all float64", ", ".join(sorted(map(str, dtypes))), _REMEDY)
    network = network.to(dtypes.pop())
    network.load_state_dict(tensors, assign=True)
    return network


def _validate_batch(path: Path, tensors: dict[str, Tensor], manifest: ForensicsManifest) -> None:
    network, count = manifest.network, len(manifest.series)
    length, horizon = network.context_length, network.horizon
    shapes: dict[str, tuple[int, ...]] = {
        "context": (count, length),
        "observed_mask": (count, length),
        "past_covariates": (count, length, network.num_past_covariates),
        "future_covariates": (count, horizon, network.num_future_covariates),
        "static_covariates": (count, network.num_static_covariates),
        "target": (count, horizon),
        "target_mask": (count, horizon),
        "scale_floor": (count, 1),
        "loc": (count, 1),
        "scale": (count, 1),
    }
    for name, shape in shapes.items():
        tensor = tensors.get(name)
        if tensor is None or tuple(tensor.shape) != shape:
            actual = "absent" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise ForensicsError(f"{path}: {name}", f"of shape {shape}", actual, _REMEDY)
        if tensor.dtype not in ((torch.bool,) if name in _MASKS else _FLOATS):
            raise ForensicsError(f"{path}: {name}", "numbers or flags as the schema says", str(tensor.dtype), _REMEDY)
    rows = manifest.place.rows if manifest.place is not None else ()
    facts = {
        f"{path}: windows": count > 0 and len(manifest.cutoffs) == count <= manifest.batch_size,
        f"{path}: place": all(0 <= row < count for row in rows),
        f"{path}: random.torch": _is_state(tensors.get("random.torch")),
        f"{path}: random.cuda": "random.cuda" not in tensors or tensors["random.cuda"].dtype == torch.uint8,
        f"{path}: norms": "norms" in tensors and tensors["norms"].dtype in _FLOATS and tensors["norms"].ndim == 1,
        f"{path}: loss": "loss" not in tensors or tensors["loss"].numel() == 1,
    }
    for where, is_right in facts.items():
        if not is_right:
            raise ForensicsError(where, "as the schema says", "different", _REMEDY)


def _is_state(tensor: Tensor | None) -> bool:
    like = torch.get_rng_state()
    return tensor is not None and tensor.dtype == like.dtype and tensor.shape == like.shape
