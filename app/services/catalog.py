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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from app.services.loading import Cold, LoadedModel, Resolved, VersionLoader, sentence
from app.services.metrics import LoadedRow, ServiceMetrics
from app.services.snapshot import CatalogSnapshot
from app.services.sources import ModelListing, ModelSource, ModelVersion
from training.errors import ModelNotFoundError, TrackingError
from training.tracking.references import ModelReference, parse_reference

logger = logging.getLogger(__name__)

# A name that is asked for and not known may have been registered a moment ago: look again, but not at every request.
MIN_REFRESH_SECONDS = 1.0


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

    Attributes:
        on_swap: Called after a model has taken its place; for the process around the application.
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
        self.on_swap: Callable[[], None] = lambda: None
        self._metrics = metrics
        self._names = tuple(names)
        self._poll_seconds = poll_seconds
        self._max_pinned_models = max_pinned_models
        self._snapshot = CatalogSnapshot(cache_directory, source) if cache_directory is not None else None
        self._loader = VersionLoader(source, metrics, self._snapshot, retry_seconds=poll_seconds)
        self._listings: Mapping[str, ModelListing] = {}
        self._loaded: Mapping[str, LoadedModel] = {}
        self._pinned: OrderedDict[tuple[str, int], LoadedModel] = OrderedDict()
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
    def unready_reason(self) -> str:
        """Why there is no model, for whoever asks for a forecast."""
        if self._source_error is not None:
            return self._source_error
        if not self.has_polled:
            return "The service has just started."
        reasons = (self.last_error(name) for name in self.served_names)
        return next((reason for reason in reasons if reason), f"The {self.source.kind} holds no model yet.")

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
            return f"No version of {name!r} in the {self.source.kind} has the alias {self.alias!r}; promote one to serve it."
        reason = self._loader.failure(target)
        return f"Version {target.version}: {reason}" if reason is not None else None

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
                pinned = self._loader.load(version)
                if pinned is None:
                    reason = self._loader.failure(version) or ""
                    raise TrackingError(f"model {version.name}/{version.version}", "loadable", "not", reason)
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
        except Exception as error:  # noqa: BLE001  a source may fail in any way; what is loaded serves on
            logger.info("cannot refresh the list of models: %s", sentence(error))
            return False
        finally:
            self._polled_at = time.monotonic()
            self._lock.release()
        self._wake.set()
        return True

    def poll(self) -> None:
        """Look at the source once and converge on it. Never raises."""
        with self._lock:
            if not self.has_polled and self._snapshot is not None:
                self._restore(self._snapshot)  # asking a registry takes seconds in which nobody would be answered
            try:
                listings = self.source.list_models()
            except Exception as error:  # noqa: BLE001  the same
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
        message = sentence(error)
        if message != self._source_error:
            logger.warning("the %s does not answer; serving what is loaded: %s", self.source.kind, message)
        self._source_error = message
        self._metrics.source_up.set(0)

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
        self._loader.forget_absent(listings)

    def _converge_version(self, version: ModelVersion, directory: Path | None = None) -> None:
        loaded = self._loaded.get(version.name)
        if loaded is not None and loaded.version.version == version.version and loaded.version.digest == version.digest:
            if loaded.version != version:  # moved aliases or edited tags: the same network
                self._loaded = {**self._loaded, version.name: replace(loaded, version=version)}
            self._metrics.model_failing.labels(version.name).set(0)
            return
        fresh = self._loader.load(version, directory)
        self._metrics.model_failing.labels(version.name).set(1 if fresh is None else 0)
        if fresh is not None:
            self._loaded = {**self._loaded, version.name: fresh}
            self.on_swap()
            logger.info("serving %s version %d", version.name, version.version)

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
            raise ModelNotFoundError(
                f"model {reference.name[:64]!r}", "one that is served", "unknown", "See GET /models."
            )
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
            LoadedRow(name, model.version.version, model.verdict or "unknown", model.loaded_at, model.data_until)
            for name, model in self._loaded.items()
        ]
