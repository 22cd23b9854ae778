"""The bundle: a directory of data that becomes a forecaster again, checked to the last byte.

    weights.safetensors   tensors only
    bundle.json           what the network is, what it reads, how good it was, sha256 of every other file
    golden.json           one input and its forecast, repeated on every load
    context.parquet       last rows of the trained series (optional)

Nothing is pickled and nothing is imported by name: `architecture` selects a class from `models.registry`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from models.columns import Columns
from models.config import AnyNetworkConfig, NetworkConfig
from models.errors import BundleError, GradcastError
from models.forecaster import Forecaster, ForecastInputs
from models.registry import build_forecaster

SCHEMA_VERSION = 2
# Version 1 knew neither `fill` nor `calibration`, nor conformal networks: it is read with their defaults.
READABLE_VERSIONS = (1, 2)
WEIGHTS, MANIFEST, GOLDEN, CONTEXT = "weights.safetensors", "bundle.json", "golden.json", "context.parquet"
ALLOWED_FILES = frozenset({WEIGHTS, MANIFEST, GOLDEN, CONTEXT})
MAX_MANIFEST_BYTES = 64 * 2**20
# Of any other file: more is refused before it is read.
MAX_FILE_BYTES = 2 * 2**30
# Another processor may round differently; a wrong weight differs by far more.
GOLDEN_TOLERANCE = 1e-4
_DTYPES = {"F32": torch.float32, "F64": torch.float64}


class BundleManifest(BaseModel):
    """The content of `bundle.json`.

    Attributes:
        schema_version: Layout of the bundle; an unknown one is refused.
        network: Architecture and sizes.
        columns: Names and roles of the inputs.
        target: Name of the forecast column in the user's data.
        freq: Step between rows as a pandas offset alias, `1` for integer time.
        season_length: Steps per season.
        time_kind: Whether time is a datetime or an integer.
        timezone: Zone of the training timestamps, or None if they had none.
        fill: How missing targets were filled in training, and are when it is served.
        irregular: What is done with rows at irregular times: `error`, or `resample` to the mean of each step.
        calibration: What conformal calibration rests on; empty without one.
        final_fit_steps: Steps of the fit on all rows after selection; None without one. The metrics are then those of the
            fit that was selected.
        warm_start: Registered version that the weights started from, `name/version`; None from scratch.
        metrics: Backtest metrics by `part/metric`.
        baselines: The same for every baseline.
        gradient: Verdict, reach, need and findings.
        data_fingerprint: sha256 of the training data's content.
        trained_until: Last timestamp that was trained on, ISO 8601 (integer time: its digits).
        num_series: Series trained on.
        versions: Versions of gradcast and of what wrote the bundle.
        sha256: Hash of every other file.
        manifest_sha256: Hash of this description without this entry, see `manifest_hash`; empty in bundles of before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    network: AnyNetworkConfig
    columns: Columns = Columns()
    target: str = "y"
    freq: str = "1"
    season_length: int = Field(default=1, ge=1)
    time_kind: str = Field(default="datetime", pattern="^(datetime|integer)$")
    timezone: str | None = None
    fill: str = Field(default="mask", pattern="^(mask|ffill|linear|zero|error)$")
    irregular: str = Field(default="error", pattern="^(error|resample)$")
    calibration: dict[str, Any] = Field(default_factory=dict)
    final_fit_steps: int | None = Field(default=None, ge=1)
    warm_start: str | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    baselines: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    gradient: dict[str, Any] = Field(default_factory=dict)
    data_fingerprint: str = ""
    trained_until: str = ""
    num_series: int = Field(default=0, ge=0)
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)
    manifest_sha256: str = ""


@dataclass(frozen=True)
class Bundle:
    """A loaded and verified bundle.

    Attributes:
        manifest: Its description.
        forecaster: The network in evaluation mode, on the CPU.
        directory: Where it was read from.
    """

    manifest: BundleManifest
    forecaster: Forecaster
    directory: Path

    @property
    def context_path(self) -> Path | None:
        """The stored last rows of the trained series, if the bundle keeps them."""
        return self.directory / CONTEXT if CONTEXT in self.manifest.sha256 else None


def save_bundle(
    directory: Path, forecaster: Forecaster, manifest: BundleManifest, extra_files: Mapping[str, bytes] | None = None
) -> None:
    """Write a bundle; the directory appears complete or not at all.

    Args:
        directory: Where to; replaced if it exists.
        forecaster: The trained network; its device and mode are left as they are.
        manifest: Its description; `sha256` is filled in here.
        extra_files: `context.parquet` and its content.

    Raises:
        BundleError: If an extra file has another name, or a weight is not finite.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in forecaster.state_dict().items()}
    _validate_finite(directory, tensors)
    golden = json.dumps(_golden_example(forecaster)).encode()
    files = {WEIGHTS: safetensors.torch.save(tensors), GOLDEN: golden} | dict(extra_files or {})
    if foreign := sorted(set(files) - ALLOWED_FILES):
        raise BundleError(str(directory), f"made of {', '.join(sorted(ALLOWED_FILES))}", f"given {foreign[0]!r}")
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    document = manifest.model_copy(update={"sha256": hashes}).model_dump(mode="json")
    document["manifest_sha256"] = manifest_hash(document)
    files[MANIFEST] = json.dumps(document, indent=1, allow_nan=False).encode()
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


def manifest_hash(document: Mapping[str, Any]) -> str:
    """sha256 of the content of `bundle.json` as JSON with sorted keys, without the entry that holds it."""
    content = {key: value for key, value in document.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_bundle(directory: Path) -> Bundle:
    """Read a bundle and prove that it is what was saved.

    Args:
        directory: The bundle.

    Returns:
        The manifest and the network in evaluation mode.

    Raises:
        BundleError: For an unknown schema version, a missing, foreign, linked or changed file, a tensor that is
            missing, extra, misshapen or not finite, or a golden forecast that comes out differently.
    """
    manifest = read_manifest(directory)
    _validate_files(directory, manifest)
    forecaster = _read_weights(directory / WEIGHTS, manifest)
    _validate_golden(directory / GOLDEN, forecaster)
    return Bundle(manifest, forecaster, directory)


def read_manifest(directory: Path) -> BundleManifest:
    """Read and validate `bundle.json` alone.

    Raises:
        BundleError: If it is absent, too large, no JSON, or not of this schema.
    """
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(str(path), f"at most {MAX_MANIFEST_BYTES} bytes", f"{path.stat().st_size} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(str(path), "a readable JSON document", type(error).__name__) from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version not in READABLE_VERSIONS:
        raise BundleError(
            f"{path}: schema_version",
            " or ".join(map(str, READABLE_VERSIONS)),
            repr(version)[:40],
            "Use the gradcast version that wrote it.",
        )
    expected = document.get("manifest_sha256")
    if expected and expected != manifest_hash(document):
        raise BundleError(str(path), "as it was written", "changed", "The bundle is damaged; fetch it again.")
    try:
        return BundleManifest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {where}", "as the schema says", first["msg"][:200]) from None


def _validate_files(directory: Path, manifest: BundleManifest) -> None:
    remedy = "The bundle is damaged or was changed; fetch it again."
    present = {entry.name for entry in directory.iterdir()}
    expected = set(manifest.sha256) | {MANIFEST}
    if not {WEIGHTS, GOLDEN} <= set(manifest.sha256) or not expected <= ALLOWED_FILES:
        raise BundleError(
            f"{directory / MANIFEST}: sha256", "the hashes of the bundle's files", "incomplete or foreign"
        )
    if present != expected:
        odd = min(present ^ expected)
        raise BundleError(str(directory), f"made of {sorted(expected)}", f"different in {odd[:80]!r}", remedy)
    for name, expected_hash in manifest.sha256.items():
        path = directory / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(str(path), "a plain file", "a link or directory", remedy)
        limit = MAX_MANIFEST_BYTES if name == GOLDEN else MAX_FILE_BYTES
        if (num_bytes := path.stat().st_size) > limit:
            raise BundleError(str(path), f"at most {limit} bytes", f"{num_bytes} bytes", remedy)
        with path.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        if actual != expected_hash:
            raise BundleError(str(path), f"of sha256 {expected_hash[:12]}", f"of {actual[:12]}", remedy)


def _read_weights(path: Path, manifest: BundleManifest) -> Forecaster:
    # Shapes are compared before memory is taken: the description must not be able to ask for more than the file holds.
    with torch.device("meta"):
        skeleton = _build(path, manifest)
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a dict
            dtypes = {file.get_slice(name).get_dtype() for name in shapes}
    except (safetensors.SafetensorError, OSError) as error:
        raise BundleError(str(path), "a safetensors file", str(error)[:120]) from None
    if shapes != expected:
        odd = min(set(shapes.items()) ^ set(expected.items()))[0]
        raise BundleError(str(path), "the tensors of the described network", f"different in {odd[:80]!r}")
    if len(dtypes) != 1 or not dtypes <= set(_DTYPES):
        raise BundleError(str(path), "all float32 or all float64", ", ".join(sorted(dtypes)))
    # Copied into memory of torch's own: at the file's odd addresses a matrix product may add up in another order.
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    _validate_finite(path, tensors)
    skeleton = skeleton.to(_DTYPES[dtypes.pop()])
    skeleton.load_state_dict(tensors, assign=True)
    return skeleton.eval()


def _build(path: Path, manifest: BundleManifest) -> Forecaster:
    try:
        return build_forecaster(manifest.network)
    except GradcastError as error:
        raise BundleError(str(path.parent / MANIFEST), "a network that can be built", str(error)[:200]) from None


def _validate_finite(where: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{where}: {name}", "finite", "NaN or Inf")


def _golden_inputs(config: NetworkConfig, dtype: torch.dtype) -> ForecastInputs:
    """One made-up window: two waves with a gap, so that every input channel matters."""

    def wave(*shape: int) -> Tensor:
        count = torch.tensor(shape).prod().item()
        return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7).view(shape).to(dtype)

    length, horizon = config.context_length, config.horizon
    steps = torch.arange(length, dtype=torch.float64)
    context = (10.0 + 3.0 * torch.sin(steps * 0.26) + torch.sin(steps * 1.1)).to(dtype)[None]
    return ForecastInputs(
        context,
        (torch.arange(length) % 7 != 3)[None],
        wave(1, length, config.num_past_covariates),
        wave(1, horizon, config.num_future_covariates),
        wave(1, config.num_static_covariates),
    )


@torch.no_grad()
def _golden_example(forecaster: Forecaster) -> dict[str, Any]:
    reference = next(iter(forecaster.state_dict().values()))
    inputs = _golden_inputs(forecaster.config, reference.dtype)
    was_training = forecaster.training
    forecast = forecaster.eval()(ForecastInputs(*(tensor.to(reference.device) for tensor in inputs)))
    forecaster.train(was_training)
    return {"inputs": {name: t.tolist() for name, t in inputs._asdict().items()}, "forecast": forecast.cpu().tolist()}


@torch.no_grad()
def _validate_golden(path: Path, forecaster: Forecaster) -> None:
    dtype = next(iter(forecaster.state_dict().values())).dtype
    shapes = _golden_inputs(forecaster.config, dtype)
    try:
        golden = json.loads(path.read_text(encoding="utf-8"))
        inputs = ForecastInputs(
            *(
                torch.tensor(golden["inputs"][name], dtype=like.dtype).view(like.shape)
                for name, like in shapes._asdict().items()
            )
        )
        expected = torch.tensor(golden["forecast"], dtype=dtype)
        actual = forecaster(inputs)
        close = torch.allclose(actual, expected, rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise BundleError(str(path), "a golden input and forecast", type(error).__name__) from None
    if not close:
        difference = (actual - expected).abs().max().item()
        raise BundleError(
            str(path), "reproduced by the weights", f"off by {difference:.3g}", "Do not serve this bundle."
        )
