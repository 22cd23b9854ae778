"""Loading one version: fetch, verify, and remember what failed so that it is not tried at every look."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.services.context import ContextStore, read_context_store
from app.services.metrics import ServiceMetrics
from app.services.network import ServingNetwork
from app.services.snapshot import CatalogSnapshot
from app.services.sources import ModelListing, ModelSource, ModelVersion
from models.bundle import Bundle, BundleManifest, load_bundle
from models.errors import GradcastError
from training.errors import ModelNotFoundError, TrackingError

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 600.0
# Folders of an absolute path; not those of an address.
_DIRECTORIES = re.compile(r"(?<![\w:/])/(?:[^\s/:'\"]+/)+")


@dataclass(frozen=True)
class LoadedModel:
    """A verified model in memory.

    Attributes:
        version: What it is.
        bundle: Its network and description.
        network: Its network, made ready to answer.
        context: The stored last rows of the series it was trained on.
        loaded_at: Seconds since the epoch.
    """

    version: ModelVersion
    bundle: Bundle
    network: ServingNetwork
    context: ContextStore
    loaded_at: float

    @property
    def manifest(self) -> BundleManifest:
        """The description in the bundle."""
        return self.bundle.manifest

    @property
    def verdict(self) -> str | None:
        """Verdict of the gradient's diagnosis."""
        verdict = self.manifest.gradient.get("verdict")
        return str(verdict) if verdict is not None else None

    @property
    def data_until(self) -> float | None:
        """Seconds since the epoch of the last row trained on; None for integer time."""
        if self.manifest.time_kind != "datetime" or not self.manifest.trained_until:
            return None
        moment = datetime.fromisoformat(self.manifest.trained_until)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    @property
    def reach_steps(self) -> int | None:
        """How far back the gradient reached in training, in steps."""
        reach = self.manifest.gradient.get("reach_steps")
        return int(reach) if isinstance(reach, int | float) else None


@dataclass(frozen=True)
class Resolved:
    """A model and the alias by which it was asked for."""

    model: LoadedModel
    alias: str | None


@dataclass(frozen=True)
class Cold:
    """A version that exists but is not in memory, and the alias by which it was asked for."""

    version: ModelVersion
    alias: str | None


@dataclass(frozen=True)
class Failure:
    """Why a version could not be loaded, and when to try again.

    Attributes:
        digest: The content that failed; another content is tried at once.
        message: What went wrong.
        count: Failures in a row.
        retry_at: `time.monotonic()` before which the same content is not tried again.
    """

    digest: str
    message: str
    count: int
    retry_at: float


class VersionLoader:
    """Turns versions into verified models; a version that failed waits twice as long before every next try.

    Args:
        source: Where bundles come from.
        metrics: Where loads are counted.
        snapshot: Remembers where bundles are on disk; None if nothing is kept.
        retry_seconds: Wait after the first failure.
    """

    def __init__(
        self, source: ModelSource, metrics: ServiceMetrics, snapshot: CatalogSnapshot | None, retry_seconds: float
    ) -> None:
        self._source = source
        self._metrics = metrics
        self._snapshot = snapshot
        self._retry_seconds = retry_seconds
        self._failures: dict[tuple[str, int], Failure] = {}

    def failure(self, version: ModelVersion) -> str | None:
        """Why the version could not be loaded; None if it could, or was never tried."""
        failure = self._failures.get((version.name, version.version))
        return failure.message if failure is not None and failure.digest == version.digest else None

    def forget_absent(self, listings: Sequence[ModelListing]) -> None:
        """Drop the failures of versions that are gone or have other content now."""
        current = {
            (version.name, version.version): version.digest for listing in listings for version in listing.versions
        }
        for key, failure in list(self._failures.items()):
            if current.get(key) != failure.digest:
                self._failures.pop(key, None)

    def load(self, version: ModelVersion, directory: Path | None = None) -> LoadedModel | None:
        """Load a version, or return None and keep the reason for `failure`. Never raises.

        Args:
            version: What to load.
            directory: Where its bundle is; fetched from the source if None.
        """
        key = (version.name, version.version)
        before = self._failures.get(key)
        if before is not None and before.digest != version.digest:
            before = None
        if before is not None and time.monotonic() < before.retry_at:
            return None
        try:
            model = self._load(version, directory)
        except Exception as error:  # noqa: BLE001  whatever is wrong with a version, the old one stays
            self._metrics.reloads.labels(version.name, "failed").inc()
            count = before.count + 1 if before is not None else 1
            delay = min(MAX_BACKOFF_SECONDS, self._retry_seconds * 2.0 ** min(count - 1, 16))
            self._failures[key] = Failure(version.digest, without_directories(sentence(error)), count, time.monotonic() + delay)
            logger.warning("cannot load %s version %d: %s", version.name, version.version, sentence(error))
            return None
        self._metrics.reloads.labels(version.name, "loaded").inc()
        self._failures.pop(key, None)
        return model

    def _load(self, version: ModelVersion, directory: Path | None) -> LoadedModel:
        directory = directory or self._fetch(version)
        bundle = load_bundle(directory)
        context = read_context_store(bundle)
        if self._snapshot is not None:
            self._snapshot.remember(version, directory)
        return LoadedModel(version, bundle, ServingNetwork(bundle.forecaster), context, time.time())

    def _fetch(self, version: ModelVersion) -> Path:
        try:
            return self._source.fetch(version)
        except (TrackingError, ModelNotFoundError):
            kept = self._snapshot.directory(version) if self._snapshot is not None else None
            if kept is None:
                raise
            return kept


def without_directories(text: str) -> str:
    """The same with the names of files alone: `/readyz` asks nobody for a key."""
    return _DIRECTORIES.sub("", text)


def sentence(error: Exception) -> str:
    """One line about an error: the project's own say what to do, of others only the kind is known to be harmless."""
    return str(error) if isinstance(error, GradcastError) else f"unexpected {type(error).__name__}"
