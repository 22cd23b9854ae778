"""The registry as the command line and the service use it: find, describe, promote, take back, fetch. Loads no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from training.errors import ModelNotFoundError
from training.tracking.download import download_bundle
from training.tracking.environment import (
    default_cache_directory,
    normalize_uri,
    open_client,
    sqlite_path,
    translated_errors,
)
from training.tracking.history import parse_champions, record_champion, write_champions
from training.tracking.references import ModelReference, RegistryEntry, ResolvedModel, parse_reference, validate_alias
from training.tracking.registration import all_versions, version_summary
from training.tracking.tracker import CHAMPION

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

__all__ = [
    "ModelReference",
    "RegistryEntry",
    "ResolvedModel",
    "default_cache_directory",
    "download_bundle",
    "list_models",
    "parse_reference",
    "promote",
    "resolve",
    "rollback",
    "show_model",
]


def list_models(uri: str) -> list[RegistryEntry]:
    """Every registered name with its versions.

    Raises:
        TrackingError: If the store does not answer.
    """
    if not _exists(uri):
        return []
    with translated_errors(uri):
        client = open_client(normalize_uri(uri))
        names: list[Any] = []
        token: str | None = None
        while True:
            page = client.search_registered_models(max_results=200, page_token=token)
            names += page
            token = page.token
            if not token:
                break
        versions = all_versions(client)
        return sorted((_entry(model, versions) for model in names), key=lambda entry: entry.name)


def show_model(uri: str, name: str) -> RegistryEntry:
    """One registered name with all its versions.

    Raises:
        ModelNotFoundError: If there is none of that name.
        TrackingError: If the store does not answer.
    """
    name = parse_reference(name).name
    client = _client(uri, name)
    with translated_errors(uri, f"model {name!r}"):
        return _entry(client.get_registered_model(name), all_versions(client, name))


def resolve(uri: str, reference: str) -> ResolvedModel:
    """The version that `name`, `name@alias` or `name/version` means; a bare name is its champion, else its newest.

    Raises:
        ModelNotFoundError: If there is no such version.
        TrackingError: If the store does not answer.
    """
    parsed = parse_reference(reference)
    client = _client(uri, reference)
    with translated_errors(uri, f"model {reference!r}"):
        return _resolve(client, parsed)


def _resolve(client: MlflowClient, parsed: ModelReference) -> ResolvedModel:
    from mlflow.exceptions import MlflowException

    model = client.get_registered_model(parsed.name)
    aliases = {alias: int(version) for alias, version in (model.aliases or {}).items()}
    number = parsed.version
    if parsed.alias is not None:
        if parsed.alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            raise ModelNotFoundError(f"alias of model {parsed.name!r}", f"one of those set ({known})", repr(parsed.alias))
        number = aliases[parsed.alias]
    if number is None:
        number = aliases.get(CHAMPION) or _latest_version(client, parsed.name)
    try:
        return _resolved(client.get_model_version(parsed.name, str(number)), aliases)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise ModelNotFoundError(f"model {str(parsed)!r}", "in the registry", "not found") from error


def promote(uri: str, name: str, version: int, alias: str = CHAMPION) -> ResolvedModel:
    """Point an alias to a version.

    Raises:
        ModelNotFoundError: If there is no such version.
        ConfigurationError: If the alias cannot be one.
        TrackingError: If the store does not answer.
    """
    validate_alias(alias, "alias")
    target = resolve(uri, f"{name}/{version}")
    client = _client(uri, name)
    with translated_errors(uri, f"model {name!r}"):
        aliases = client.get_registered_model(name).aliases or {}
        client.set_registered_model_alias(name, alias, str(version))
        if alias == CHAMPION:
            record_champion(client, name, version, int(aliases[CHAMPION]) if CHAMPION in aliases else None)
            if target.note:
                client.update_registered_model(name, target.note)
    return resolve(uri, f"{name}/{version}")


def rollback(uri: str, name: str) -> ResolvedModel:
    """Make the previous champion champion again.

    Raises:
        ModelNotFoundError: If there is no such name, or it has had no other champion that still exists.
        TrackingError: If the store does not answer.
    """
    entry = show_model(uri, name)
    existing = {version.version for version in entry.versions}
    current = entry.aliases.get(CHAMPION)
    history = list(entry.champions)
    while history and (history[-1] == current or history[-1] not in existing):
        history.pop()
    if not history:
        remedy = "Promote a version instead: gradcast models promote NAME VERSION champion."
        raise ModelNotFoundError(f"previous champion of {name!r}", "a version that still exists", "none", remedy)
    client = _client(uri, name)
    with translated_errors(uri, f"model {name!r}"):
        client.set_registered_model_alias(entry.name, CHAMPION, str(history[-1]))
        write_champions(client, entry.name, history)
    return resolve(uri, f"{entry.name}/{history[-1]}")


def _client(uri: str, reference: str) -> MlflowClient:
    if not _exists(uri):  # looking must not create a store
        raise ModelNotFoundError(f"model {reference!r}", "in the registry", "not found: there is no store yet")
    with translated_errors(uri):
        return open_client(normalize_uri(uri))


def _exists(uri: str) -> bool:
    path = sqlite_path(normalize_uri(uri))
    return path is None or path.is_file()


def _latest_version(client: MlflowClient, name: str) -> int:
    versions = all_versions(client, name)
    if not versions:
        raise ModelNotFoundError(f"model {name!r}", "registered with at least one version", "without any")
    return int(versions[0].version)


def _resolved(version: ModelVersion, aliases: Mapping[str, int]) -> ResolvedModel:
    number = int(version.version)
    pointing = sorted(alias for alias, target in aliases.items() if target == number)
    return ResolvedModel(
        name=version.name,
        version=number,
        aliases=tuple(pointing),
        run_id=version.run_id or "",
        tags=dict(version_summary(version)),
        note=version.description or "",
        source=version.source or "",
        created_ms=int(version.creation_timestamp or 0),
    )


def _entry(model: Any, versions: Sequence[ModelVersion]) -> RegistryEntry:
    aliases = {alias: int(version) for alias, version in (model.aliases or {}).items()}
    return RegistryEntry(
        name=model.name,
        versions=tuple(_resolved(version, aliases) for version in versions if version.name == model.name),
        aliases=aliases,
        champions=tuple(parse_champions(model)),
        note=model.description or "",
        updated_ms=int(model.last_updated_timestamp or 0),
    )
