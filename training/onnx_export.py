"""A bundle's network as one ONNX file: windows in the unit of `y` in, quantiles in the unit of `y` out, compared in numbers.

The scaler is part of the network (docs/adr/0002), so that whoever runs the file prepares nothing but the windows. What it
cannot hold is refused: draws of random paths, and quantiles that numpy finds outside of the network.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.bundle import Bundle, BundleManifest
from models.config import NetworkConfig
from models.errors import GradcastError
from models.forecaster import Forecaster, ForecastInputs
from models.recursive import RecursiveForecaster
from training.extras import require_extra

EXTRA = "onnx"
# Distributions whose quantiles need no special function outside of torch.
CLOSED_FORM_HEADS = ("point", "quantile", "normal")
WINDOW_COUNTS = (1, 2, 7)
# Largest difference to the network, in units of each window's scale: rounding in another order, nothing else.
TOLERANCE = 1e-4


class OnnxExportError(GradcastError):
    """A network that has no ONNX form, or whose ONNX form gives other numbers."""

    code = "onnx_export_refused"


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how well it agrees.

    Attributes:
        path: The file.
        inputs: Shape of every input by name; `windows` is free. An input that the network does not read is not there.
        levels: Quantile levels along the last axis of the only output, `quantiles`.
        largest_difference: To the network's own forecast, in units of each window's scale.
        num_windows: Windows compared.
        num_bytes: Of the file.
    """

    path: Path
    inputs: dict[str, tuple[str | int, ...]]
    levels: tuple[float, ...]
    largest_difference: float
    num_windows: int
    num_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return {
            "path": str(self.path), "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "quantile_levels": list(self.levels), "largest_difference": self.largest_difference, "tolerance": TOLERANCE,
            "num_windows": self.num_windows, "num_bytes": self.num_bytes,
        }  # fmt: skip


class _Flat(nn.Module):
    """Tensors in, a tensor out."""

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        self.forecaster = forecaster

    def forward(self, context: Tensor, mask: Tensor, past: Tensor, future: Tensor, static: Tensor) -> Tensor:
        quantiles: Tensor = self.forecaster(ForecastInputs(context, mask, past, future, static))
        return quantiles


def export_onnx(bundle: Bundle, path: Path) -> OnnxReport:
    """Write a bundle's network as ONNX and compare it, by onnxruntime, with the network itself.

    Args:
        bundle: The model.
        path: The file; replaced if it exists, left alone if the comparison fails.

    Raises:
        ConfigurationError: `extra_missing`, without the packages.
        OnnxExportError: If the network has no ONNX form or that form differs.
    """
    for package in ("onnx", "onnxruntime"):
        require_extra(package, EXTRA, "export as ONNX")
    _validate_exportable(bundle.forecaster)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial")
    try:
        _write(bundle.forecaster, staging)
        _describe(staging, bundle.manifest)
        report = _compare(bundle.forecaster, staging, path)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    return report


def _validate_exportable(forecaster: Forecaster) -> None:
    network = forecaster.config
    remedy = "Serve the bundle itself, or train another head or decoder."
    if isinstance(forecaster, RecursiveForecaster) and forecaster.draws_paths:
        raise OnnxExportError("the network to export", "one without random draws", "one whose decoder draws paths", remedy)
    if network.head not in CLOSED_FORM_HEADS:
        contract = f"one with the head {', '.join(CLOSED_FORM_HEADS)}, whose quantiles are formulas"
        raise OnnxExportError("the network to export", contract, f"one with the head {network.head}", remedy)


def _write(forecaster: Forecaster, path: Path) -> None:
    names = [*ForecastInputs._fields]
    with warnings.catch_warnings(), torch.no_grad():
        # Shapes are compared while tracing, which is what the warnings are about; the result is compared below.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Flat(forecaster), tuple(example_windows(forecaster, 3)), path, input_names=names, output_names=["quantiles"],
                dynamic_axes={name: {0: "windows"} for name in (*names, "quantiles")}, dynamo=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            reason = f"not: {str(error).splitlines()[0][:160]}"
            raise OnnxExportError("the network to export", "made of operations that ONNX has", reason) from None


def _describe(path: Path, manifest: BundleManifest) -> None:
    """Check the graph, and keep in the file what the numbers mean."""
    import onnx

    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    facts = manifest.model_dump(mode="json", include={"columns", "freq", "target", "timezone", "time_kind", "trained_until"})
    levels = json.dumps(manifest.network.output_levels)
    onnx.helper.set_model_props(graph, {"gradcast": json.dumps(facts), "quantile_levels": levels})
    onnx.save(graph, path)


def _compare(forecaster: Forecaster, path: Path, target: Path) -> OnnxReport:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its refusals are raised as well
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shapes = {entry.name: tuple(entry.shape) for entry in session.get_inputs()}
    differences = [_difference(forecaster, session, shapes, count) for count in WINDOW_COUNTS]
    largest = max(differences)
    if not largest <= TOLERANCE:
        contract = f"within {TOLERANCE:g} of the network's forecast, in units of a window's scale"
        raise OnnxExportError(str(target), contract, f"off by {largest:.3g}", "Serve the bundle itself.")
    levels = forecaster.config.output_levels
    return OnnxReport(target, shapes, levels, largest, sum(WINDOW_COUNTS), path.stat().st_size)


def _difference(forecaster: Forecaster, session: Any, names: dict[str, Any], count: int) -> float:
    inputs = example_windows(forecaster, count)
    with torch.no_grad():
        expected = forecaster(inputs)
        scale = forecaster.standardise(inputs)[1].scale[..., None]
    given = {name: tensor.numpy() for name, tensor in inputs._asdict().items() if name in names}
    try:
        [found] = session.run(None, given)
    except Exception as error:  # noqa: BLE001  onnxruntime has a class per kind of failure, none of them public
        reason = str(error).splitlines()[0][:200]
        raise OnnxExportError("the exported graph", f"one that runs on {count} windows", reason) from None
    return float(((torch.from_numpy(found) - expected).abs() / scale).max())


def example_windows(forecaster: Forecaster, count: int) -> ForecastInputs:
    """Made-up windows with gaps, of different levels, in the network's own type.

    Args:
        forecaster: Whose shapes they have.
        count: Of windows.
    """
    config, dtype = forecaster.config, next(iter(forecaster.state_dict().values())).dtype
    generator = torch.Generator().manual_seed(count)
    parts = _noise(config, count, generator)
    context, past, future, static = (part.to(dtype) for part in parts)
    mask = torch.rand(count, config.context_length, generator=generator) > 0.2
    mask[:, -1] = True
    if config.num_series:
        static[:, -1] = torch.randint(0, config.num_series + 1, (count,), generator=generator).to(dtype)
    return ForecastInputs(torch.where(mask, context, 0.0), mask, past, future, static)


def _noise(config: NetworkConfig, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    size = 10.0 ** (torch.arange(count)[:, None] % 4)
    yield (5.0 + torch.randn(count, config.context_length, generator=generator)) * size
    yield torch.randn(count, config.context_length, config.num_past_covariates, generator=generator)
    yield torch.randn(count, config.horizon, config.num_future_covariates, generator=generator)
    yield torch.randn(count, config.num_static_covariates, generator=generator)
