"""The MLflow registry as a source of models. Downloads bundles; never loads a pyfunc."""

from __future__ import annotations

from pathlib import Path
from typing import final

from app.services.sources import ModelListing, ModelSource, ModelVersion
from training.config import TrackingConfig
from training.errors import ModelNotFoundError
from training.tracking.environment import redact, resolve_uri
from training.tracking.references import ResolvedModel
from training.tracking.registry import download_bundle, list_models


@final
class RegistrySource(ModelSource):
    """Models that a tracking server has registered.

    Args:
        uri: Tracking URI; None = MLFLOW_TRACKING_URI, else the local default.
        cache_directory: Where bundles are downloaded to.

    Raises:
        ConfigurationError: If it is no tracking URI.
    """

    kind = "registry"

    def __init__(self, uri: str | None, cache_directory: Path) -> None:
        self._uri = resolve_uri(TrackingConfig(uri=uri))
        self._cache_directory = cache_directory
        self._resolved: dict[tuple[str, int], ResolvedModel] = {}
        self.location = redact(self._uri)

    def list_models(self) -> tuple[ModelListing, ...]:
        """Every registered name with its versions."""
        entries = list_models(self._uri)
        self._resolved = {(version.name, version.version): version for entry in entries for version in entry.versions}
        return tuple(
            ModelListing(entry.name, tuple(_version(version) for version in sorted(entry.versions, key=_number)))
            for entry in entries
        )

    def fetch(self, version: ModelVersion) -> Path:
        """Download the bundle of a version, unless the cache has it; checked either way."""
        resolved = self._resolved.get((version.name, version.version))
        if resolved is None:
            raise ModelNotFoundError(f"model {version.name}/{version.version}", "in the registry", "not listed")
        return download_bundle(self._uri, resolved, self._cache_directory)


def _number(version: ResolvedModel) -> int:
    return version.version


def _version(version: ResolvedModel) -> ModelVersion:
    return ModelVersion(
        name=version.name,
        version=version.version,
        aliases=tuple(sorted(version.aliases)),
        # A version's content never changes; a number that was deleted and given again has another time and source.
        digest=f"{version.source} {version.created_ms}",
        run_id=version.run_id or None,
        tags=dict(version.tags),
    )
