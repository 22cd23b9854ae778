"""The bundle: equal to the bit when whole, refused when not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from models.bundle import Bundle, BundleManifest, load_bundle, manifest_hash, save_bundle
from models.config import DISTRIBUTION_NAMES, DistributionName, LSTMConfig
from models.errors import BundleError
from models.forecaster import Forecaster, ForecastInputs
from models.registry import build_forecaster

CONFIG = LSTMConfig(
    context_length=10, horizon=3, hidden_size=8, num_past_covariates=2, num_future_covariates=1, scaler="revin"
)


@pytest.fixture
def network() -> Forecaster:
    """An LSTM with random weights."""
    torch.manual_seed(0)
    return build_forecaster(CONFIG)


@pytest.fixture
def saved(network: Forecaster, tmp_path: Path) -> Path:
    """A whole bundle."""
    save_bundle(tmp_path / "bundle", network, BundleManifest(network=CONFIG), {"context.parquet": b"rows"})
    return tmp_path / "bundle"


def edit_manifest(directory: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change bundle.json as an attacker would."""
    document = json.loads((directory / "bundle.json").read_text())
    change(document)
    document["manifest_sha256"] = manifest_hash(document)
    (directory / "bundle.json").write_text(json.dumps(document))


def rehash(directory: Path, name: str) -> None:
    """Make the hash fit a changed file, as an attacker would."""
    digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    edit_manifest(directory, lambda document: document["sha256"].__setitem__(name, digest))  # type: ignore[attr-defined]


def test_saved_and_loaded_forecasts_are_equal_to_the_bit(network: Forecaster, saved: Path) -> None:
    """Same weights, same numbers."""
    loaded: Bundle = load_bundle(saved)
    inputs = ForecastInputs(
        torch.randn(4, 10),
        torch.ones(4, 10, dtype=torch.bool),
        torch.randn(4, 10, 2),
        torch.randn(4, 3, 1),
        torch.zeros(4, 0),
    )
    with torch.no_grad():
        assert torch.equal(loaded.forecaster(inputs), network.eval()(inputs))
    assert loaded.manifest.network == CONFIG
    assert not loaded.forecaster.training
    assert loaded.context_path == saved / "context.parquet"


@pytest.mark.parametrize("head", DISTRIBUTION_NAMES)
def test_a_distribution_comes_back_with_its_quantiles(head: DistributionName, tmp_path: Path) -> None:
    """The golden forecast holds quantiles, whatever the head learns."""
    config = LSTMConfig(context_length=10, horizon=3, hidden_size=4, head=head, scaler="mean_abs")
    save_bundle(tmp_path / "b", build_forecaster(config), BundleManifest(network=config))
    assert load_bundle(tmp_path / "b").manifest.network == config
    assert len(json.loads((tmp_path / "b" / "golden.json").read_text())["forecast"][0][0]) == len(config.output_levels)


def test_double_precision_survives(tmp_path: Path) -> None:
    """A float64 network comes back as float64."""
    save_bundle(tmp_path / "b", build_forecaster(CONFIG).double(), BundleManifest(network=CONFIG))
    assert next(load_bundle(tmp_path / "b").forecaster.parameters()).dtype == torch.float64


def test_nothing_in_a_bundle_is_pickled(saved: Path) -> None:
    """Four files of plain data; none starts like a pickle or a zip of pickles."""
    assert {path.name for path in saved.iterdir()} == {
        "weights.safetensors",
        "bundle.json",
        "golden.json",
        "context.parquet",
    }
    for path in saved.iterdir():
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")


def flip_weight(directory: Path) -> None:
    content = bytearray((directory / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "weights.safetensors").write_bytes(bytes(content))


def wrong_weights_right_hash(directory: Path) -> None:
    tensors = safetensors.torch.load_file(directory / "weights.safetensors")
    tensors["head.projection.bias"] += 1.0
    safetensors.torch.save_file(tensors, directory / "weights.safetensors")
    rehash(directory, "weights.safetensors")


def extra_tensor(directory: Path) -> None:
    tensors = safetensors.torch.load_file(directory / "weights.safetensors") | {"extra": torch.zeros(1)}
    safetensors.torch.save_file(tensors, directory / "weights.safetensors")
    rehash(directory, "weights.safetensors")


def not_finite(directory: Path) -> None:
    tensors = safetensors.torch.load_file(directory / "weights.safetensors")
    tensors["head.projection.bias"][0] = torch.nan
    safetensors.torch.save_file(tensors, directory / "weights.safetensors")
    rehash(directory, "weights.safetensors")


def half_precision(directory: Path) -> None:
    tensors = safetensors.torch.load_file(directory / "weights.safetensors")
    safetensors.torch.save_file(
        {name: tensor.half() for name, tensor in tensors.items()}, directory / "weights.safetensors"
    )
    rehash(directory, "weights.safetensors")


def no_safetensors(directory: Path) -> None:
    (directory / "weights.safetensors").write_bytes(b"\x80\x04not a tensor file")
    rehash(directory, "weights.safetensors")


def foreign_file(directory: Path) -> None:
    (directory / "model.pkl").write_bytes(b"\x80\x04.")


def listed_foreign_file(directory: Path) -> None:
    (directory / "run.py").write_text("print('hello')")
    rehash(directory, "run.py")


def linked_file(directory: Path) -> None:
    content = (directory / "context.parquet").read_bytes()
    (directory.parent / "elsewhere").write_bytes(content)
    (directory / "context.parquet").unlink()
    (directory / "context.parquet").symlink_to(directory.parent / "elsewhere")


def missing_file(directory: Path) -> None:
    (directory / "golden.json").unlink()


def golden_without_hash(directory: Path) -> None:
    (directory / "golden.json").unlink()
    edit_manifest(directory, lambda document: document["sha256"].pop("golden.json"))  # type: ignore[attr-defined]


def golden_of_other_shape(directory: Path) -> None:
    (directory / "golden.json").write_text('{"inputs": {"context": [[1.0]]}, "forecast": [[[1.0]]]}')
    rehash(directory, "golden.json")


def deep_json(directory: Path) -> None:
    (directory / "bundle.json").write_text("[" * 100_000)


def no_json(directory: Path) -> None:
    (directory / "bundle.json").write_bytes(b"\xff\xfe")


def other_schema(directory: Path) -> None:
    edit_manifest(directory, lambda document: document.update(schema_version=99))


def extra_key(directory: Path) -> None:
    edit_manifest(directory, lambda document: document.update(postinstall="curl"))


def other_architecture(directory: Path) -> None:
    edit_manifest(directory, lambda document: document["network"].update(architecture="os.system"))  # type: ignore[attr-defined]


def huge_network(directory: Path) -> None:
    edit_manifest(directory, lambda document: document["network"].update(hidden_size=16_000, num_layers=60))  # type: ignore[attr-defined]


def impossible_network(directory: Path) -> None:
    edit_manifest(directory, lambda document: document["network"].update(initialization="identity"))  # type: ignore[attr-defined]


DAMAGES = [
    flip_weight, wrong_weights_right_hash, extra_tensor, not_finite, half_precision, no_safetensors, foreign_file,
    listed_foreign_file, linked_file, missing_file, golden_without_hash, golden_of_other_shape, deep_json, no_json,
    other_schema, extra_key, other_architecture, huge_network, impossible_network,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_a_damaged_or_hostile_bundle_is_refused(saved: Path, damage: Callable[[Path], None]) -> None:
    """Every kind of damage is a BundleError with a sentence, never a traceback of something else."""
    load_bundle(saved)
    damage(saved)
    with pytest.raises(BundleError, match="must be"):
        load_bundle(saved)


def test_an_absent_bundle_is_refused(tmp_path: Path) -> None:
    """A directory that is not there."""
    with pytest.raises(BundleError):
        load_bundle(tmp_path / "nothing")


def test_weights_that_are_no_numbers_are_not_saved(network: Forecaster, tmp_path: Path) -> None:
    """Better no bundle than a broken one; nothing is left behind."""
    with torch.no_grad():
        next(network.parameters()).fill_(torch.inf)
    with pytest.raises(BundleError, match="finite"):
        save_bundle(tmp_path / "bundle", network, BundleManifest(network=CONFIG))
    assert list(tmp_path.iterdir()) == []


def test_a_description_that_changed_on_the_way_is_refused(saved: Path) -> None:
    """Another score, verdict or name in bundle.json is noticed: the description carries a hash of itself."""
    text = (saved / "bundle.json").read_text()
    changed = text.replace('"season_length": ', '"season_length": 1')
    assert changed != text
    (saved / "bundle.json").write_text(changed)
    with pytest.raises(BundleError, match="changed"):
        load_bundle(saved)


def test_a_bundle_from_before_that_hash_is_read(saved: Path) -> None:
    """Without the entry there is nothing to compare; everything else is checked as ever."""
    document = json.loads((saved / "bundle.json").read_text())
    del document["manifest_sha256"]
    (saved / "bundle.json").write_text(json.dumps(document))
    assert load_bundle(saved).manifest.manifest_sha256 == ""
