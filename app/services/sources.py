"""Where models come from: the registry, or a directory of bundles."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from models.bundle import MANIFEST
from training.errors import ModelNotFoundError


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model, as its source describes it.

    Attributes:
        name: Registered name.
        version: Number of the version.
        aliases: Names that point at it, such as `champion`.
        digest: Changes whenever the content behind the version does.
        run_id: Run that trained it.
        tags: Whatever the source keeps beside it.
    """

    name: str
    version: int
    aliases: tuple[str, ...] = ()
    digest: str = ""
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelListing:
    """A name with its versions, oldest first."""

    name: str
    versions: tuple[ModelVersion, ...]

    def by_alias(self, alias: str) -> ModelVersion | None:
        """The version that the alias points at."""
        return next((version for version in self.versions if alias in version.aliases), None)

    def by_number(self, number: int) -> ModelVersion | None:
        """The version of that number."""
        return next((version for version in self.versions if version.version == number), None)


class ModelSource(ABC):
    """Lists models and brings their bundles to this machine."""

    kind: str
    location: str

    @abstractmethod
    def list_models(self) -> tuple[ModelListing, ...]:
        """Every model there is.

        Raises:
            TrackingError: If the source does not answer.
        """

    @abstractmethod
    def fetch(self, version: ModelVersion) -> Path:
        """Bring the bundle of a version here and return its directory.

        Raises:
            TrackingError: If the source does not answer.
            ModelNotFoundError: If the version is gone.
            BundleError: If what came is no bundle.
        """


@final
class DirectorySource(ModelSource):
    """Bundles on disk: `DIR` is a bundle, or holds `NAME/` bundles, or `NAME/VERSION/` bundles with VERSION a number.

    The highest number is the champion; a new number beside it is picked up like a promotion. For one laptop without
    MLflow, and for tests.

    Args:
        directory: The directory.
        name: Name of the model if the directory is itself a bundle; its own name if None.
        alias: Alias that the highest version gets.
    """

    kind = "directory"

    def __init__(self, directory: Path, name: str | None = None, alias: str = "champion") -> None:
        self._directory = directory.resolve()
        self._name = name or self._directory.name
        self._alias = alias
        self.location = str(self._directory)

    def list_models(self) -> tuple[ModelListing, ...]:
        """Read the directory anew."""
        if _is_bundle(self._directory):
            return (self._listing(self._name, {1: self._directory}),)
        if not self._directory.is_dir():
            raise ModelNotFoundError(
                "bundle", "a directory", "absent", "Name a bundle directory, or a directory of them."
            )
        found = {folder.name: _bundles_by_number(folder) for folder in _folders(self._directory)}
        return tuple(self._listing(name, bundles) for name, bundles in sorted(found.items()) if bundles)

    def fetch(self, version: ModelVersion) -> Path:
        """The directory itself; nothing is copied."""
        if _is_bundle(self._directory):
            return self._directory
        folder = self._directory / version.name
        directory = _bundles_by_number(folder).get(version.version) if folder.is_dir() else None
        if directory is None:
            raise ModelNotFoundError(f"{version.name}/{version.version}", "a bundle directory", "absent")
        return directory

    def _listing(self, name: str, bundles: Mapping[int, Path]) -> ModelListing:
        numbers = sorted(bundles)
        versions = (
            ModelVersion(name, number, (self._alias,) if number == numbers[-1] else (), _digest(bundles[number]))
            for number in numbers
        )
        return ModelListing(name, tuple(versions))


def _folders(directory: Path) -> list[Path]:
    # A leading dot marks what is still being written.
    return [entry for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _is_bundle(directory: Path) -> bool:
    return (directory / MANIFEST).is_file()


def _bundles_by_number(folder: Path) -> dict[int, Path]:
    if _is_bundle(folder):
        return {1: folder}
    return {int(entry.name): entry for entry in _folders(folder) if entry.name.isdecimal() and _is_bundle(entry)}


def _digest(directory: Path) -> str:
    # The manifest holds the hash of every other file, so its own hash changes with any of them.
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
