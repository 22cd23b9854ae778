"""The models in memory: loaded from their source, kept up to date, swapped without a pause.

A thread looks at the source every few seconds. When the version behind a name changes, it is fetched, verified (hashes
and golden forecast, by `load_bundle`, which also warms it up) before one reference is swapped; requests in flight finish on the
old one. Whatever fails leaves the old model in place and shows in `/readyz` and `/metrics`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.services.context import ContextStore, read_context_store
from app.services.metrics import LoadedRow, ServiceMetrics
from app.services.snapshot import CatalogSnapshot
from app.services.sources import ModelListing, ModelSource, ModelVersion
from models.bundle import Bundle, BundleManifest, load_bundle
from models.errors import GradcastError
from training.errors import ModelNotFoundError, TrackingError
from training.tracking.references import ModelReference, parse_reference

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 600.0
# A name that is asked for and not known may have been registered a moment ago: look again, but not at every request.
MIN_REFRESH_SECONDS = 1.0


@dataclass(frozen=True)
class LoadedModel:
    """A verified model in memory.

    Attributes:
        version: What it is.
        bundle: Its network and description.
        context: The stored last rows of the series it was trained on.
        loaded_at: Seconds since the epoch.
    """

    version: ModelVersion
    bundle: Bundle
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


class Catalog:
    """Models by reference.

    Args:
        source: Where they come from.
        metrics: Where loads and failures are counted.
        names: Names to serve; empty = all. The first is the default model.
        alias: What a name alone stands for.
        poll_seconds: Seconds between two looks at the source.
        max_pinned_models: Versions kept loaded beside the default ones.
        cache_directory: Where the snapshot for a start without the source is kept; None = nowhere.
    """

    def __init__(
        self,
        source: ModelSource,
        metrics: ServiceMetrics,
        *,
        names: Sequence[str] = (),
        alias: str = "champion",
        poll_seconds: float = 10.0,
        max_pinned_models: int = 4,
        cache_directory: Path | None = None,
    ) -> None:
        self.source = source
        self.alias = alias
        self._metrics = metrics
        self._names = tuple(names)
        self._poll_seconds = poll_seconds
        self._max_pinned_models = max_pinned_models
        self._snapshot = CatalogSnapshot(cache_directory, source) if cache_directory is not None else None
        self._listings: Mapping[str, ModelListing] = {}
        self._loaded: Mapping[str, LoadedModel] = {}
        self._pinned: OrderedDict[tuple[str, int], LoadedModel] = OrderedDict()
        self._failures: dict[tuple[str, int], Failure] = {}
        self._source_error: str | None = None
        self._polled_at: float | None = None
        self._lock = threading.Lock()
        self._pin_lock = threading.Lock()
        self._wake = threading.Event()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="gradcast-catalog", daemon=True)
        metrics.watch_models(self._loaded_rows)

    @property
    def listings(self) -> tuple[ModelListing, ...]:
        """What is served, with versions and aliases, as last seen at the source."""
        return tuple(self._listings.values())

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        """The model behind each name."""
        return self._loaded

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names asked for, then the others that are listed."""
        return tuple(dict.fromkeys((*self._names, *self._listings)))

    @property
    def default_name(self) -> str | None:
        """The model of a request that names none."""
        names = self._names or tuple(self._loaded) or tuple(self._listings)
        return names[0] if names else None

    @property
    def source_error(self) -> str | None:
        """Why the last look at the source failed; None if it did not."""
        return self._source_error

    @property
    def is_ready(self) -> bool:
        """Whether every name asked for has a model (with no names: whether there is any model)."""
        loaded = self._loaded
        return bool(loaded) and all(name in loaded for name in self._names)

    @property
    def has_polled(self) -> bool:
        """Whether the source was looked at since the start."""
        return self._polled_at is not None

    def last_error(self, name: str) -> str | None:
        """Why the newest version of a name is not the one served; None if it is."""
        listing = self._listings.get(name)
        target = listing.by_alias(self.alias) if listing is not None else None
        if target is None:
            return f"The {self.source.kind} holds no version with the alias {self.alias!r}."
        failure = self._failures.get((name, target.version))
        return f"Version {target.version}: {failure.message}" if failure is not None else None

    def start(self) -> None:
        """Start following the source."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following the source."""
        self._is_stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def find(self, reference: str | None) -> Resolved | Cold:
        """The model behind a reference if it is in memory, else what to `pin`. Never waits.

        Args:
            reference: `name`, `name@alias` or `name/version`; None = the default model.

        Raises:
            ModelNotFoundError: If there is no such name, alias or version.
            TrackingError: If the name is known but its model could not be loaded.
        """
        wanted = self._parse(reference)
        name, alias = wanted.name, wanted.alias
        loaded = self._loaded.get(name)
        if alias == self.alias and loaded is not None:
            return Resolved(loaded, alias)
        version = self._version(wanted)
        if loaded is not None and loaded.version.version == version.version:
            return Resolved(loaded, alias)
        pinned = self._pinned.get((name, version.version))
        if pinned is not None and pinned.version.digest == version.digest:
            with contextlib.suppress(KeyError):  # dropped by another thread just now
                self._pinned.move_to_end((name, version.version))
            return Resolved(pinned, alias)
        if alias == self.alias:
            reason = self.last_error(name) or "It is being loaded."
            raise TrackingError(f"model {name!r}", "loaded", "not loaded yet", reason)
        return Cold(version, alias)

    def pin(self, version: ModelVersion) -> LoadedModel:
        """Load a version beside the default ones; waits for the source and the disk.

        Raises:
            TrackingError: If it cannot be loaded.
        """
        key = (version.name, version.version)
        with self._pin_lock:  # one load at a time: many requests for one cold version load it once
            pinned = self._pinned.get(key)
            if pinned is None or pinned.version.digest != version.digest:
                pinned = self._try_load(version)
                if pinned is None:
                    failure = self._failures[key]
                    raise TrackingError(f"model {version.name}/{version.version}", "loadable", "not", failure.message)
                self._pinned[key] = pinned
            self._pinned.move_to_end(key)
            while len(self._pinned) > self._max_pinned_models:
                self._pinned.popitem(last=False)
            return pinned

    def refresh(self) -> bool:
        """List the source again unless that was done a moment ago or is being done; says whether it was.

        What is new is loaded by the catalog's own thread, which this wakes.
        """
        is_fresh = self._polled_at is not None and time.monotonic() - self._polled_at < MIN_REFRESH_SECONDS
        if is_fresh or not self._lock.acquire(blocking=False):
            return False
        try:
            self._see(self._served(self.source.list_models()))
        except Exception as error:
            logger.info("cannot refresh the list of models: %s", _sentence(error))
            return False
        finally:
            self._polled_at = time.monotonic()
            self._lock.release()
        self._wake.set()
        return True

    def poll(self) -> None:
        """Look at the source once and converge on it. Never raises."""
        with self._lock:
            try:
                listings = self.source.list_models()
            except Exception as error:
                self._on_source_failure(error)
            else:
                self._source_error = None
                self._metrics.source_up.set(1)
                self._converge(self._served(listings))
            self._polled_at = time.monotonic()

    def _run(self) -> None:
        while not self._is_stopped:
            self._wake.clear()
            self.poll()
            self._wake.wait(self._poll_seconds)

    def _on_source_failure(self, error: Exception) -> None:
        message = _sentence(error)
        if message != self._source_error:
            logger.warning("the %s does not answer; serving what is loaded: %s", self.source.kind, message)
        self._source_error = message
        self._metrics.source_up.set(0)
        if not self._loaded and self._snapshot is not None:
            self._restore(self._snapshot)

    def _restore(self, snapshot: CatalogSnapshot) -> None:
        listings = self._served(snapshot.read_listings())
        self._listings = {listing.name: listing for listing in listings}
        for listing in listings:
            version = listing.by_alias(self.alias)
            directory = snapshot.directory(version) if version is not None else None
            if version is not None and directory is not None:
                self._converge_version(version, directory)

    def _served(self, listings: Sequence[ModelListing]) -> tuple[ModelListing, ...]:
        if not self._names:
            return tuple(listings)
        by_name = {listing.name: listing for listing in listings}
        return tuple(by_name[name] for name in self._names if name in by_name)

    def _converge(self, listings: Sequence[ModelListing]) -> None:
        self._see(listings)
        for listing in listings:
            version = listing.by_alias(self.alias)
            if version is not None:
                self._converge_version(version)
        if self._snapshot is not None:
            self._snapshot.write(listings)

    def _see(self, listings: Sequence[ModelListing]) -> None:
        # A name that left the source is still served until the restart, and still listed, without versions.
        loaded = {name: ModelListing(name, ()) for name in self._loaded}
        self._listings = loaded | {listing.name: listing for listing in listings}
        current = {(version.name, version.version): version.digest for listing in listings for version in listing.versions}
        self._failures = {key: failure for key, failure in self._failures.items() if current.get(key) == failure.digest}

    def _converge_version(self, version: ModelVersion, directory: Path | None = None) -> None:
        loaded = self._loaded.get(version.name)
        if loaded is not None and loaded.version.version == version.version and loaded.version.digest == version.digest:
            if loaded.version != version:  # moved aliases or edited tags: the same network
                self._loaded = {**self._loaded, version.name: replace(loaded, version=version)}
            self._metrics.model_failing.labels(version.name).set(0)
            return
        fresh = self._try_load(version, directory)
        self._metrics.model_failing.labels(version.name).set(1 if fresh is None else 0)
        if fresh is not None:
            self._loaded = {**self._loaded, version.name: fresh}
            logger.info("serving %s version %d", version.name, version.version)

    def _try_load(self, version: ModelVersion, directory: Path | None = None) -> LoadedModel | None:
        key = (version.name, version.version)
        failure = self._failures.get(key)
        if failure is not None and failure.digest == version.digest and time.monotonic() < failure.retry_at:
            return None
        try:
            model = self._load(version, directory)
        except Exception as error:
            self._metrics.reloads.labels(version.name, "failed").inc()
            count = failure.count + 1 if failure is not None and failure.digest == version.digest else 1
            delay = min(MAX_BACKOFF_SECONDS, self._poll_seconds * 2.0 ** min(count - 1, 16))
            self._failures[key] = Failure(version.digest, _sentence(error), count, time.monotonic() + delay)
            logger.warning("cannot load %s version %d: %s", version.name, version.version, _sentence(error))
            return None
        self._metrics.reloads.labels(version.name, "loaded").inc()
        self._failures.pop(key, None)
        return model

    def _load(self, version: ModelVersion, directory: Path | None) -> LoadedModel:
        directory = directory or self.source.fetch(version)
        bundle = load_bundle(directory)
        context = read_context_store(bundle)
        if self._snapshot is not None:
            self._snapshot.remember(version, directory)
        return LoadedModel(version, bundle, context, time.time())

    def _parse(self, reference: str | None) -> ModelReference:
        if reference is None:
            name = self.default_name
            if name is None:
                raise ModelNotFoundError("model", "registered", "absent", "No model is served yet.")
            return ModelReference(name, self.alias)
        if reference in self._listings:  # a directory may have a name that the registry would not allow
            return ModelReference(reference, self.alias)
        parsed = parse_reference(reference)
        return parsed if parsed.alias or parsed.version is not None else replace(parsed, alias=self.alias)

    def _version(self, reference: ModelReference) -> ModelVersion:
        listing = self._listings.get(reference.name)
        if listing is None:
            raise ModelNotFoundError(f"model {reference.name[:64]!r}", "one that is served", "unknown", "See GET /models.")
        if reference.version is not None:
            version = listing.by_number(reference.version)
        else:
            version = listing.by_alias(reference.alias or self.alias)
        if version is None:
            remedy = f"See GET /models/{listing.name}."
            raise ModelNotFoundError(f"model {str(reference)[:160]!r}", "registered", "absent", remedy)
        return version

    def _loaded_rows(self) -> list[LoadedRow]:
        return [
            (name, model.version.version, model.verdict or "unknown", model.loaded_at)
            for name, model in self._loaded.items()
        ]


def _sentence(error: Exception) -> str:
    """One line about an error: the project's own say what to do, others show their kind alone."""
    return str(error) if isinstance(error, GradcastError) else f"{type(error).__name__} (see the log)"
