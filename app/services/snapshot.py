"""What was served last, on disk: the way back into service when the registry is away at the start."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.services.sources import ModelListing, ModelSource, ModelVersion

logger = logging.getLogger(__name__)
_LISTINGS = TypeAdapter(tuple[ModelListing, ...])
_DIRECTORIES = TypeAdapter(dict[str, str])


class CatalogSnapshot:
    """Listings and bundle directories as last seen at one source.

    Args:
        cache_directory: Where it is kept.
        source: Its kind and location name the file, so that two registries do not mix.
    """

    def __init__(self, cache_directory: Path, source: ModelSource) -> None:
        digest = hashlib.sha256(f"{source.kind} {source.location}".encode()).hexdigest()[:16]
        self._path = cache_directory / f"served-{digest}.json"
        self._listings, self._directories = self._read()
        self._written = self._document()

    def read_listings(self) -> tuple[ModelListing, ...]:
        """The listings as last seen."""
        return self._listings

    def directory(self, version: ModelVersion) -> Path | None:
        """Where the bundle of a version was, if it is still there."""
        text = self._directories.get(_key(version))
        return Path(text) if text is not None and Path(text).is_dir() else None

    def remember(self, version: ModelVersion, directory: Path) -> None:
        """Note where the bundle of a version is; written with the next listings."""
        self._directories = {**self._directories, _key(version): str(directory.resolve())}

    def write(self, listings: Sequence[ModelListing]) -> None:
        """Replace the snapshot if anything changed. A disk that refuses costs a warning: serving goes on without."""
        self._listings = tuple(listings)
        current = {_key(version) for listing in listings for version in listing.versions}
        self._directories = {key: path for key, path in self._directories.items() if key in current}
        document = self._document()
        if document == self._written:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            staging = self._path.with_suffix(f".{os.getpid()}.tmp")
            staging.write_text(document, encoding="utf-8")
            os.replace(staging, self._path)
        except OSError as error:
            logger.warning("cannot write %s: %s", self._path, error.strerror)
        self._written = document

    def _document(self) -> str:
        return json.dumps(
            {"listings": [asdict(listing) for listing in self._listings], "directories": self._directories}
        )

    def _read(self) -> tuple[tuple[ModelListing, ...], dict[str, str]]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            return _LISTINGS.validate_python(document["listings"]), _DIRECTORIES.validate_python(
                document["directories"]
            )
        except FileNotFoundError:
            return (), {}
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            logger.warning("%s is unreadable and will be replaced", self._path)
            return (), {}


def _key(version: ModelVersion) -> str:
    return f"{version.name}/{version.version}/{version.digest}"
