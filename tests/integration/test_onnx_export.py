"""ONNX export: the file gives the network's numbers in another program, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models.bundle import BundleManifest, load_bundle, save_bundle
from models.config import NETWORK_CONFIG_ADAPTER
from models.registry import build_forecaster
from training import onnx_export
from training.cli import main
from training.onnx_export import OnnxExportError, export_onnx

SIZES = {"context_length": 12, "horizon": 4, "num_past_covariates": 2, "num_future_covariates": 1, "num_static_covariates": 1}
NETWORKS = {
    "linear": {"scaler": "robust"},
    "rnn": {"hidden_size": 5, "nonlinearity": "relu", "scaler": "last"},
    "gru": {"hidden_size": 5, "num_layers": 2, "skip": "linear"},
    "lstm": {"hidden_size": 5, "series_embedding": 2, "num_series": 3, "conformal": "split"},
    "mingru": {"hidden_size": 5, "scaler": "revin"},
    "minlstm": {"hidden_size": 5, "head": "normal"},
    "segrnn": {"hidden_size": 5, "segment_length": 5, "linear_share": 0.25, "recurrent_length": 8},
    "dilated_lstm": {"hidden_size": 5, "num_layers": 2, "dilations": (1, 4)},
    "dilated_gru": {"hidden_size": 5, "dilations": (2,), "decoder": "recursive", "head": "point"},
}


def write(directory: Path, architecture: str, **settings: object) -> Path:
    torch.manual_seed(0)
    network = NETWORK_CONFIG_ADAPTER.validate_python({"architecture": architecture, **SIZES, **settings})
    forecaster = build_forecaster(network)
    with torch.no_grad():
        for parameter in forecaster.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_bundle(directory, forecaster, BundleManifest(network=network, freq="h"))
    return directory


@pytest.mark.parametrize("architecture", list(NETWORKS))
def test_onnxruntime_gives_the_golden_forecast_of_the_bundle(tmp_path: Path, architecture: str) -> None:
    """The example that every load of a bundle repeats, run by a program that knows nothing of torch; and what was measured."""
    bundle = load_bundle(write(tmp_path / "bundle", architecture, **NETWORKS[architecture]))
    report = export_onnx(bundle, tmp_path / "network.onnx")
    assert report.largest_difference < 1e-5
    assert report.num_windows == 10
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    golden = json.loads((tmp_path / "bundle" / "golden.json").read_text())
    shapes = {entry.name: entry for entry in session.get_inputs()}
    kinds = {name: np.bool_ if name == "observed_mask" else np.float32 for name in golden["inputs"]}
    given = {name: np.array(value, kinds[name]) for name, value in golden["inputs"].items() if name in shapes}
    [found] = session.run(None, given)
    np.testing.assert_allclose(found, np.array(golden["forecast"], np.float32), rtol=1e-4, atol=1e-4)


def test_the_file_says_what_its_numbers_mean(tmp_path: Path) -> None:
    """Columns, frequency and levels are in it; the number of windows is free."""
    bundle = load_bundle(write(tmp_path / "bundle", "lstm", hidden_size=5))
    report = export_onnx(bundle, tmp_path / "network.onnx")
    facts = {entry.key: json.loads(entry.value) for entry in onnx.load(report.path).metadata_props}
    assert facts["gradcast"]["freq"] == "h"
    assert tuple(facts["quantile_levels"]) == report.levels == bundle.manifest.network.output_levels
    assert report.inputs["context"] == ("windows", 12)
    assert json.loads(json.dumps(report.to_dict()))["num_bytes"] == report.path.stat().st_size


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"head": "student_t"}, "one with the head student_t"),
        ({"head": "negative_binomial", "scaler": "mean_abs"}, "one with the head negative_binomial"),
        ({"head": "normal", "decoder": "recursive"}, "decoder draws paths"),
    ],
)
def test_what_has_no_onnx_form_is_refused_by_name(tmp_path: Path, settings: dict[str, str], says: str) -> None:
    """Before anything is written."""
    bundle = load_bundle(write(tmp_path / "bundle", "lstm", hidden_size=5, **settings))
    with pytest.raises(OnnxExportError, match=says):
        export_onnx(bundle, tmp_path / "network.onnx")
    assert not (tmp_path / "network.onnx").exists()


def test_a_file_that_gives_other_numbers_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight is changed behind the export's back: the difference is found, and a file from before stays."""
    bundle = load_bundle(write(tmp_path / "bundle", "linear"))
    target = tmp_path / "network.onnx"
    target.write_bytes(b"before")
    original = onnx_export._describe

    def spoil(path: Path, manifest: BundleManifest) -> None:
        original(path, manifest)
        with torch.no_grad():
            bundle.forecaster.decoder.bias[0] += 0.01

    monkeypatch.setattr(onnx_export, "_describe", spoil)
    with pytest.raises(OnnxExportError, match=r"must be within 0\.0001 of the network's forecast.* but is off by 0\.0"):
        export_onnx(bundle, target)
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_the_command_prints_and_enforces_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By number or by alias; a refusal is one sentence and exit code 2."""
    asked: list[str] = []
    good, bad = write(tmp_path / "good", "gru", hidden_size=5), write(tmp_path / "bad", "gru", hidden_size=5, head="student_t")

    def resolve(_uri: str, reference: str) -> SimpleNamespace:
        asked.append(reference)
        return SimpleNamespace(name="bike", version=3, directory=bad if "@" in reference else good)

    monkeypatch.setattr("training.tracking.registry.resolve", resolve)
    monkeypatch.setattr("training.tracking.download.download_bundle", lambda _uri, found, _cache: found.directory)
    assert main(["models", "export", "bike", "3", str(tmp_path / "a.onnx")]) == 0
    said = capsys.readouterr().out
    assert "input   context  windows x 12" in said
    assert "output  quantiles  windows x 4 x 5" in said
    assert "bike/3 written to" in said
    assert main(["models", "export", "bike", "champion", str(tmp_path / "b.onnx"), "--json"]) == 2
    assert "one with the head student_t" in capsys.readouterr().err
    assert asked == ["bike/3", "bike@champion"]
