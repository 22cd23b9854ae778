"""Fetches a registered model's bundle into a content-addressed cache; trusts neither store nor cache, runs no model code."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from models.errors import BundleError
from training.tracking.environment import normalize_uri, open_client, redact, translated_errors
from training.tracking.references import ResolvedModel

MANIFEST = "bundle.json"
BUNDLE_FOLDER = "artifacts/bundle"  # where an MLflow model keeps the artifact named `bundle`
MAX_MANIFEST_BYTES = 64 * 2**20
MAX_BUNDLE_BYTES = 2 * 2**30
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def download_bundle(
    uri: str, resolved: ResolvedModel, cache_directory: Path, max_bytes: int = MAX_BUNDLE_BYTES
) -> Path:
    """The bundle of a version as a local directory, fetched once and checked every time.

    Args:
        uri: The store.
        resolved: The version.
        cache_directory: The cache; several processes may share it.
        max_bytes: Largest bundle accepted.

    Returns:
        A directory with exactly the files that `bundle.json` names, of the hashes it names.

    Raises:
        BundleError: If the version holds no bundle, or one that is damaged, too large or names files outside itself.
        TrackingError: If the store does not answer.
    """
    uri = normalize_uri(uri)
    entry = _entry_path(cache_directory, uri, resolved)
    directory = _cached_directory(cache_directory, entry)
    if directory is None:
        directory = _fetch(uri, resolved, cache_directory, max_bytes)
        _remember(entry, directory.name)
    return directory


def _fetch(uri: str, resolved: ResolvedModel, cache_directory: Path, max_bytes: int) -> Path:
    bundles = cache_directory / "bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    where = f"bundle of {resolved.name}/{resolved.version}"
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=bundles) as folder:
        source = _Source(uri, resolved, Path(folder) / "download")
        manifest_path = source.fetch(MANIFEST, min(MAX_MANIFEST_BYTES, max_bytes))
        content = manifest_path.read_bytes()
        hashes = _read_hashes(where, content)
        source.validate_sizes(hashes, max_bytes)
        staging = Path(folder) / "bundle"
        staging.mkdir()
        (staging / MANIFEST).write_bytes(content)
        remaining = max_bytes - len(content)
        for name, expected in hashes.items():
            path = source.fetch(name, remaining)
            remaining -= path.stat().st_size
            if _hash(path) != expected:
                raise BundleError(f"{where}: {name}", f"of sha256 {expected[:12]}", "different", "Register the model again.")
            path.replace(staging / name)
        target = bundles / hashlib.sha256(content).hexdigest()
        if not _is_intact(target):
            shutil.rmtree(target, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was faster
                staging.replace(target)
        if not _is_intact(target):
            raise BundleError(where, "stored in the cache", f"unwritable at {target.parent}", "Check the cache directory.")
        return target


class _Source:
    """The bundle's files in the artifact store."""

    def __init__(self, uri: str, resolved: ResolvedModel, target: Path) -> None:
        self._uri, self._resolved, self._target = uri, resolved, target
        self._where = f"bundle of {resolved.name}/{resolved.version}"
        target.mkdir()
        with translated_errors(uri, f"model {resolved.name}/{resolved.version}"):
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            location = open_client(uri).get_model_version_download_uri(resolved.name, str(resolved.version))
            self._repository = get_artifact_repository(location, tracking_uri=uri, registry_uri=uri)
            listing = self._repository.list_artifacts(BUNDLE_FOLDER)
        self._sizes = {file.path.rpartition("/")[2]: int(file.file_size or 0) for file in listing if not file.is_dir}
        if MANIFEST not in self._sizes:
            remedy = "Only models that gradcast registered can be served."
            raise BundleError(self._where, f"a bundle with {MANIFEST}", "without one", remedy)

    def validate_sizes(self, hashes: Mapping[str, str], max_bytes: int) -> None:
        """Refuse a bundle that is incomplete or announces more than `max_bytes`, before fetching it."""
        if missing := sorted(set(hashes) - set(self._sizes)):
            raise BundleError(self._where, "complete", f"without {missing[0]!r}", "Register the model again.")
        total = sum(self._sizes[name] for name in hashes)
        if total > max_bytes:
            raise BundleError(self._where, f"at most {max_bytes} bytes", f"{total} bytes")

    def fetch(self, name: str, max_bytes: int) -> Path:
        """Download one file, whose name has been found harmless."""
        if self._sizes[name] > max_bytes:
            raise BundleError(f"{self._where}: {name}", f"at most {max_bytes} bytes", f"{self._sizes[name]} bytes")
        with translated_errors(self._uri, self._where):
            download: Callable[[str, str], str] = self._repository.download_artifacts
            path = Path(download(f"{BUNDLE_FOLDER}/{name}", str(self._target)))
        if path.is_symlink() or not path.is_file() or path.stat().st_size > max_bytes:
            raise BundleError(f"{self._where}: {name}", f"a file of at most {max_bytes} bytes", "not one")
        return path


def _read_hashes(where: str, content: bytes) -> dict[str, str]:
    """File name to sha256, names being plain: nothing in a bundle lies outside it."""
    try:
        document: Any = orjson.loads(content)
        hashes = document["sha256"]
        items = dict(hashes.items())
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BundleError(f"{where}: {MANIFEST}", "JSON with the sha256 of every file", "not") from None
    for name, value in items.items():
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST or not _SHA256.fullmatch(str(value)):
            raise BundleError(f"{where}: {MANIFEST}", "plain file names with sha256 hashes", repr(name[:80]))
    if not items:
        raise BundleError(f"{where}: {MANIFEST}", "JSON with the sha256 of every file", "without any")
    return items


def _entry_path(cache_directory: Path, uri: str, resolved: ResolvedModel) -> Path:
    identity = "\n".join((redact(uri), resolved.name, str(resolved.version), resolved.source, str(resolved.created_ms)))
    return cache_directory / "index" / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"


def _remember(entry: Path, bundle: str) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    staging = entry.with_suffix(f".{os.getpid()}.part")
    staging.write_bytes(orjson.dumps({"bundle": bundle}))
    staging.replace(entry)


def _cached_directory(cache_directory: Path, entry: Path) -> Path | None:
    """The verified directory an index entry points to, or None; a damaged one is dropped and fetched again."""
    try:
        bundle = str(orjson.loads(entry.read_bytes())["bundle"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not _SHA256.fullmatch(bundle):
        return None
    directory = cache_directory / "bundles" / bundle
    return directory if _is_intact(directory) else None


def _is_intact(directory: Path) -> bool:
    try:
        content = (directory / MANIFEST).read_bytes()
        hashes = _read_hashes(str(directory), content)
        if hashlib.sha256(content).hexdigest() != directory.name:
            return False
        return all(_hash(directory / name) == expected for name, expected in hashes.items())
    except (OSError, BundleError):
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


