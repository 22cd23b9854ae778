"""Names of registered models and aliases, how a reference spells one version, and what a version is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from training.errors import ConfigurationError, ModelNotFoundError, Problem

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,126}[A-Za-z0-9_-])?")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
_RESERVED_ALIAS = re.compile(r"(?:latest|v\d+)", re.IGNORECASE)
_MAX_VERSION_DIGITS = 9
NAME_RULE = "1 to 128 letters, digits, spaces, dots, dashes or underscores, beginning with a letter or digit"


@dataclass(frozen=True)
class ModelReference:
    """What a user wrote: `name`, `name@alias` or `name/version`.

    Attributes:
        name: Registered name.
        alias: Alias asked for, if any.
        version: Version asked for, if any.
    """

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        return self.name if self.version is None else f"{self.name}/{self.version}"


@dataclass(frozen=True)
class ResolvedModel:
    """One version in the registry.

    Attributes:
        name: Registered name.
        version: Number of the version.
        aliases: Aliases that point to it.
        run_id: The run that trained it.
        tags: Its tags, as on the run.
        note: Model card in markdown.
        source: Where its files are.
        created_ms: When it was registered, milliseconds since 1970.
    """

    name: str
    version: int
    aliases: tuple[str, ...] = ()
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    source: str = ""
    created_ms: int = 0

    @property
    def uri(self) -> str:
        """`models:/name/version`."""
        return f"models:/{self.name}/{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """The version as JSON content."""
        return {**asdict(self), "aliases": list(self.aliases), "tags": dict(self.tags), "uri": self.uri}


@dataclass(frozen=True)
class RegistryEntry:
    """One registered name with all its versions.

    Attributes:
        name: Registered name.
        versions: Its versions, newest first.
        aliases: Alias to version.
        champions: Versions that have been champion, the present one last.
        note: Model card of the name.
        updated_ms: Last change, milliseconds since 1970.
    """

    name: str
    versions: tuple[ResolvedModel, ...] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)
    champions: tuple[int, ...] = ()
    note: str = ""
    updated_ms: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The name and its versions as JSON content."""
        versions = [version.to_dict() for version in self.versions]
        return {**asdict(self), "aliases": dict(self.aliases), "champions": list(self.champions), "versions": versions}


def is_model_name(name: str) -> bool:
    """Whether `name` may be registered; nothing that could be read as a path may."""
    return bool(_NAME.fullmatch(name)) and ".." not in name


def validate_model_name(name: str, where: str = "tracking.model_name") -> None:
    """Refuse names that are paths, URIs or empty.

    Raises:
        ConfigurationError: With the rule.
    """
    if not is_model_name(name):
        raise ConfigurationError([Problem("config_invalid", where, f"must be {NAME_RULE} (is {name[:80]!r}).")])


def validate_alias(alias: str, where: str = "tracking.alias") -> None:
    """Refuse aliases that the registry reserves or cannot hold.

    Raises:
        ConfigurationError: With the rule.
    """
    if not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
        rule = "a letter, then letters, digits, dashes or underscores, at most 100, and neither `latest` nor `v1`"
        raise ConfigurationError([Problem("config_invalid", where, f"must be {rule} (is {alias[:80]!r}).")])


def parse_reference(reference: str) -> ModelReference:
    """Read `name`, `name@alias` or `name/version`.

    Raises:
        ModelNotFoundError: If no model can have that reference.
    """
    name, at, alias = reference.partition("@")
    slash, version = "", ""
    if not at:
        name, slash, version = reference.partition("/")
    is_possible = is_model_name(name)
    is_possible &= not at or bool(_ALIAS.fullmatch(alias))
    is_possible &= not slash or (version.isascii() and version.isdigit() and 0 < len(version) <= _MAX_VERSION_DIGITS)
    if not is_possible:
        raise ModelNotFoundError("model", "`name`, `name@alias` or `name/version`", repr(reference[:80]))
    return ModelReference(name, alias if at else None, int(version) if slash else None)
