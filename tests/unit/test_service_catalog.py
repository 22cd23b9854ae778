"""The catalog: loading, hot swap, failures that keep the old model, the start without a source."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch

from app.services.catalog import Catalog
from app.services.loading import Cold, LoadedModel, Resolved
from app.services.metrics import ServiceMetrics
from app.services.sources import DirectorySource, ModelListing, ModelSource, ModelVersion
from models.bundle import BundleManifest, save_bundle
from models.config import LinearConfig
from models.registry import build_forecaster
from training.errors import ModelNotFoundError, TrackingError


def write_bundle(directory: Path, seed: int = 0) -> None:
    torch.manual_seed(seed)
    network = LinearConfig(context_length=4, horizon=2)
    forecaster = build_forecaster(network)
    with torch.no_grad():
        for parameter in forecaster.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_bundle(directory, forecaster, BundleManifest(network=network, freq="h", gradient={"verdict": "healthy"}))


class FlakySource(ModelSource):
    """A directory source that can be away, and counts what is asked of it."""

    kind = "registry"

    def __init__(self, directory: Path) -> None:
        self.inner = DirectorySource(directory)
        self.location = self.inner.location
        self.is_away = False
        self.num_lists = 0
        self.num_fetches = 0
        self.aliases: dict[int, tuple[str, ...]] | None = None

    def list_models(self) -> tuple[ModelListing, ...]:
        self.num_lists += 1
        if self.is_away:
            raise TrackingError("the tracking store", "reachable", "away")
        listings = self.inner.list_models()
        if self.aliases is None:
            return listings
        return tuple(
            ModelListing(
                listing.name,
                tuple(
                    ModelVersion(v.name, v.version, self.aliases.get(v.version, ()), v.digest) for v in listing.versions
                ),
            )
            for listing in listings
        )

    def fetch(self, version: ModelVersion) -> Path:
        self.num_fetches += 1
        if self.is_away:
            raise TrackingError("the tracking store", "reachable", "away")
        return self.inner.fetch(version)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "store" / "bike" / "1", seed=1)
    return tmp_path / "store"


def build_catalog(source: ModelSource, cache: Path | None = None, **options: object) -> Catalog:
    return Catalog(source, ServiceMetrics(), cache_directory=cache, **options)  # type: ignore[arg-type]


def served(catalog: Catalog, reference: str | None = None) -> LoadedModel:
    found = catalog.find(reference)
    assert isinstance(found, Resolved)
    return found.model


def test_a_new_version_is_swapped_in(store: Path) -> None:
    """A higher version beside the served one takes over at the next look; the old object stays whole for who holds it."""
    catalog = build_catalog(DirectorySource(store))
    catalog.poll()
    first = served(catalog, "bike")
    write_bundle(store / "bike" / "2", seed=2)
    catalog.poll()
    second = served(catalog, "bike")
    assert (first.version.version, second.version.version) == (1, 2)
    assert not torch.equal(first.bundle.forecaster.decoder.weight, second.bundle.forecaster.decoder.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("damage", ["weights", "manifest", "golden", "missing"])
def test_a_damaged_version_keeps_the_old_model_and_shows(store: Path, damage: str) -> None:
    """Wrong hash, unreadable manifest, changed golden or a missing file: version 1 serves on and the reason is told."""
    catalog = build_catalog(DirectorySource(store))
    catalog.poll()
    new = store / "bike" / "2"
    write_bundle(new, seed=2)
    if damage == "weights":
        content = bytearray((new / "weights.safetensors").read_bytes())
        content[-1] ^= 0xFF
        (new / "weights.safetensors").write_bytes(bytes(content))
    elif damage == "manifest":
        (new / "bundle.json").write_text("{")
    elif damage == "golden":
        golden = json.loads((new / "golden.json").read_text())
        golden["forecast"][0][0][0] += 1.0
        (new / "golden.json").write_text(json.dumps(golden))
    else:
        (new / "golden.json").unlink()
    catalog.poll()
    assert served(catalog, "bike").version.version == 1
    assert catalog.is_ready
    error = catalog.last_error("bike")
    assert error is not None
    assert error.startswith("Version 2: ")


def test_a_repaired_version_is_taken_at_once(store: Path) -> None:
    """The back-off belongs to the broken content: other content under the same number is tried without waiting."""
    catalog = build_catalog(DirectorySource(store), poll_seconds=1000.0)
    new = store / "bike" / "2"
    write_bundle(new, seed=2)
    (new / "golden.json").unlink()
    catalog.poll()
    shutil.rmtree(new)
    write_bundle(new, seed=3)
    catalog.poll()
    assert served(catalog, "bike").version.version == 2
    assert catalog.last_error("bike") is None


def test_a_broken_version_is_not_fetched_at_every_look(store: Path) -> None:
    """A version that failed waits longer and longer before it is fetched again."""
    source = FlakySource(store)
    catalog = build_catalog(source, poll_seconds=1000.0)
    write_bundle(store / "bike" / "2")
    (store / "bike" / "2" / "golden.json").unlink()
    for _ in range(5):
        catalog.poll()
    assert source.num_fetches == 1


def test_the_same_version_is_loaded_once(store: Path) -> None:
    """Looking again at an unchanged source neither fetches nor replaces anything."""
    source = FlakySource(store)
    catalog = build_catalog(source)
    catalog.poll()
    first = served(catalog)
    catalog.poll()
    assert served(catalog) is first
    assert source.num_fetches == 1


def test_a_source_that_goes_away_changes_nothing(store: Path) -> None:
    """Whoever is loaded serves on, ready, while the source's error is told; its return clears the error."""
    source = FlakySource(store)
    catalog = build_catalog(source)
    catalog.poll()
    source.is_away = True
    catalog.poll()
    assert served(catalog).version.version == 1
    assert catalog.is_ready
    assert "away" in str(catalog.source_error)
    source.is_away = False
    catalog.poll()
    assert catalog.source_error is None


def test_a_start_without_the_source_serves_the_cached_model(store: Path, tmp_path: Path) -> None:
    """With the registry down at the start, the version served last is served again, from the disk."""
    source = FlakySource(store)
    build_catalog(source, tmp_path / "cache").poll()
    source.is_away = True
    restarted = build_catalog(source, tmp_path / "cache")
    restarted.poll()
    assert served(restarted, "bike").version.version == 1
    assert restarted.is_ready
    assert "away" in str(restarted.source_error)


def test_a_damaged_snapshot_is_no_model(store: Path, tmp_path: Path) -> None:
    """A snapshot that is no JSON counts as none: unready, without an exception."""
    source = FlakySource(store)
    build_catalog(source, tmp_path / "cache").poll()
    for path in (tmp_path / "cache").glob("*.json"):
        path.write_text("{broken")
    source.is_away = True
    restarted = build_catalog(source, tmp_path / "cache")
    restarted.poll()
    assert not restarted.is_ready


def test_the_snapshot_of_another_source_is_not_served(store: Path, tmp_path: Path) -> None:
    """Two registries that share a cache directory do not mix."""
    build_catalog(FlakySource(store), tmp_path / "cache").poll()
    other = FlakySource(tmp_path / "elsewhere")
    other.is_away = True
    restarted = build_catalog(other, tmp_path / "cache")
    restarted.poll()
    assert not restarted.loaded


def test_moving_the_alias_back_is_a_rollback(store: Path) -> None:
    """The name alone follows the alias in both directions."""
    write_bundle(store / "bike" / "2", seed=2)
    source = FlakySource(store)
    catalog = build_catalog(source)
    for champion in (2, 1):
        source.aliases = {champion: ("champion",)}
        catalog.poll()
        assert served(catalog, "bike").version.version == champion


def test_other_versions_are_loaded_when_asked_for(store: Path) -> None:
    """`name@alias` and `name/version` reach versions that the name alone does not; the least recent one is dropped."""
    for number in (2, 3):
        write_bundle(store / "bike" / str(number), seed=number)
    source = FlakySource(store)
    source.aliases = {1: (), 2: ("challenger",), 3: ("champion",)}
    catalog = build_catalog(source, max_pinned_models=1)
    catalog.poll()
    cold = catalog.find("bike@challenger")
    assert isinstance(cold, Cold)
    assert catalog.pin(cold.version).version.version == 2
    assert served(catalog, "bike/2").version.version == 2
    other = catalog.find("bike/1")
    assert isinstance(other, Cold)
    catalog.pin(other.version)
    assert isinstance(catalog.find("bike/2"), Cold)
    assert served(catalog, "bike/3") is served(catalog, "bike")


@pytest.mark.parametrize("reference", ["boat", "bike@nobody", "bike/9", "bike/x", "../bike", "bike@", "", "bike/1/2"])
def test_unknown_references_are_not_found(store: Path, reference: str) -> None:
    """What the source does not list does not exist, whatever it is spelled like."""
    catalog = build_catalog(DirectorySource(store))
    catalog.poll()
    with pytest.raises(ModelNotFoundError):
        catalog.find(reference)


def test_only_the_names_asked_for_are_served(store: Path) -> None:
    """With names given, others stay unknown, and readiness waits for every one of them."""
    write_bundle(store / "boat" / "1")
    catalog = build_catalog(DirectorySource(store), names=("bike", "plane"))
    catalog.poll()
    assert set(catalog.loaded) == {"bike"}
    assert not catalog.is_ready
    assert "alias" in str(catalog.last_error("plane"))


def test_a_bundle_directory_is_a_model_named_after_itself(tmp_path: Path) -> None:
    """`DIR` that is a bundle serves as version 1, and new content in the same place is picked up."""
    write_bundle(tmp_path / "mine", seed=1)
    catalog = build_catalog(DirectorySource(tmp_path / "mine"))
    catalog.poll()
    first = served(catalog, "mine")
    write_bundle(tmp_path / "mine", seed=2)
    catalog.poll()
    assert served(catalog, "mine").version.digest != first.version.digest


def test_a_refresh_finds_what_was_registered_a_moment_ago(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name makes the catalog look again, but not more than once in a while."""
    source = FlakySource(store)
    catalog = build_catalog(source)
    catalog.poll()
    write_bundle(store / "boat" / "1")
    assert not catalog.refresh()  # looked a moment ago
    monkeypatch.setattr("app.services.catalog.MIN_REFRESH_SECONDS", 0.0)
    assert catalog.refresh()
    with pytest.raises(TrackingError, match="loaded"):
        catalog.find("boat")


def test_the_thread_follows_the_source_and_stops(store: Path) -> None:
    """Started, the catalog polls by itself; stopped, its thread ends."""
    source = FlakySource(store)
    catalog = build_catalog(source, poll_seconds=0.05)
    catalog.start()
    ready = threading.Event()
    for _ in range(200):
        if catalog.is_ready and source.num_lists >= 2:
            ready.set()
            break
        ready.wait(0.02)
    catalog.stop()
    assert ready.is_set()
    seen = source.num_lists
    ready.clear()
    ready.wait(0.15)
    assert source.num_lists <= seen + 1
