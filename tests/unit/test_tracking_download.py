"""The bundle cache against hostile and damaged sources. The store is a directory; the checks are the real ones."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.errors import BundleError
from training.tracking import download
from training.tracking.references import ResolvedModel

URI = "http://registry"
MODEL = ResolvedModel("bike", 3, source="models:/m-1", created_ms=1)


class DirectorySource(download._Source):
    """The artifact store as a directory."""

    directory: Path
    num_fetches = 0

    def __init__(self, uri: str, resolved: ResolvedModel, target: Path) -> None:
        self._uri, self._where, self._target = uri, "bundle of bike/3", target
        target.mkdir()
        self._sizes = {path.name: path.stat().st_size for path in self.directory.iterdir()}
        self._repository: Any = self

    def download_artifacts(self, path: str, target: str) -> str:
        type(self).num_fetches += 1
        return str(shutil.copy(self.directory / path.removeprefix(f"{download.BUNDLE_FOLDER}/"), target))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stored bundle of two files, and `download` reading from it."""
    directory = tmp_path / "store"
    directory.mkdir()
    (directory / "weights.safetensors").write_bytes(b"weights")
    (directory / "golden.json").write_bytes(b"{}")
    write_manifest(directory, hashes(directory))
    DirectorySource.directory, DirectorySource.num_fetches = directory, 0
    monkeypatch.setattr(download, "_Source", DirectorySource)
    return directory


def hashes(directory: Path) -> dict[str, str]:
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in ("weights.safetensors", "golden.json")}


def write_manifest(directory: Path, sha256: object) -> None:
    (directory / "bundle.json").write_text(json.dumps({"schema_version": 1, "sha256": sha256}))


def test_bundle_is_fetched_once(store: Path, tmp_path: Path) -> None:
    """The second request is answered from the cache, under the address of its content."""
    first = download.download_bundle(URI, MODEL, tmp_path / "cache")
    fetched = DirectorySource.num_fetches
    assert download.download_bundle(URI, MODEL, tmp_path / "cache") == first
    assert DirectorySource.num_fetches == fetched == 3
    assert first.name == hashlib.sha256((store / "bundle.json").read_bytes()).hexdigest()
    assert {path.name for path in first.iterdir()} == {"bundle.json", "golden.json", "weights.safetensors"}


def test_damaged_cache_is_fetched_again(store: Path, tmp_path: Path) -> None:
    """A cached file that changed on disk is noticed and replaced."""
    directory = download.download_bundle(URI, MODEL, tmp_path / "cache")
    (directory / "weights.safetensors").write_bytes(b"bitrot!")
    again = download.download_bundle(URI, MODEL, tmp_path / "cache")
    assert (again / "weights.safetensors").read_bytes() == b"weights"


def test_changed_weights_are_refused(store: Path, tmp_path: Path) -> None:
    """A file whose hash is not the one in bundle.json never reaches the cache."""
    (store / "weights.safetensors").write_bytes(b"evil!!!")
    with pytest.raises(BundleError, match=r"weights\.safetensors must be of sha256"):
        download.download_bundle(URI, MODEL, tmp_path / "cache")
    assert not any(path.is_dir() for path in (tmp_path / "cache" / "bundles").iterdir())


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/b", "..", ".hidden", "bundle.json", "", "a\\b"])
def test_file_names_cannot_leave_the_bundle(store: Path, tmp_path: Path, name: str) -> None:
    """A manifest that names a path instead of a file is refused, and nothing is written outside the cache."""
    write_manifest(store, {**hashes(store), name: "0" * 64})
    with pytest.raises(BundleError, match="plain file names"):
        download.download_bundle(URI, MODEL, tmp_path / "cache")
    assert {path.name for path in tmp_path.iterdir()} == {"store", "cache"}


@pytest.mark.parametrize("sha256", [None, [], {}, "x", {"golden.json": "short"}, {"golden.json": 7}])
def test_manifest_without_hashes_is_refused(store: Path, tmp_path: Path, sha256: object) -> None:
    """Without a proper hash for every file there is nothing to verify, so there is no bundle."""
    write_manifest(store, sha256)
    with pytest.raises(BundleError):
        download.download_bundle(URI, MODEL, tmp_path / "cache")


def test_missing_file_is_refused(store: Path, tmp_path: Path) -> None:
    """A bundle whose manifest names a file that is not there is incomplete."""
    (store / "golden.json").unlink()
    with pytest.raises(BundleError, match=r"without 'golden\.json'"):
        download.download_bundle(URI, MODEL, tmp_path / "cache")


def test_too_large_bundle_is_refused_before_it_is_fetched(store: Path, tmp_path: Path) -> None:
    """The size cap counts all files, and only the manifest has been fetched when it strikes."""
    (store / "weights.safetensors").write_bytes(b"0" * 10_000)
    write_manifest(store, hashes(store))
    with pytest.raises(BundleError, match="at most 5000 bytes"):
        download.download_bundle(URI, MODEL, tmp_path / "cache", max_bytes=5000)
    assert DirectorySource.num_fetches == 1


def test_foreign_files_in_the_store_stay_there(store: Path, tmp_path: Path) -> None:
    """A file that bundle.json does not name is not fetched."""
    (store / "extra.pkl").write_bytes(b"pickle")
    directory = download.download_bundle(URI, MODEL, tmp_path / "cache")
    assert not (directory / "extra.pkl").exists()
