"""Keys: made here, shown once, kept as hashes in one file that a running service reads again when it changes."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.access.scopes import Scope
from app.jobs.files import write_whole
from training.errors import ConfigurationError, Problem

FILE = "keys.json"
SCHEMA_VERSION = 1
PREFIX = "gradcast"
SECRET_BYTES = 32
# A running service looks this often whether a key came or went.
RELOAD_SECONDS = 1.0
NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_TOKEN = re.compile(rf"{PREFIX}_([0-9a-f]{{8}})_[0-9a-f]{{{2 * SECRET_BYTES}}}")
logger = logging.getLogger(__name__)
_NOBODY = hashlib.sha256(b"").hexdigest()


class Key(BaseModel):
    """One key as it is kept: everything but the token."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    """Part of the token that may be shown."""
    name: str = Field(pattern=f"^{NAME}$")
    """Whom it was made for."""
    scopes: tuple[Scope, ...] = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of the token: 32 random bytes need neither salt nor a slow hash."""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    requests_per_second: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """Rate over time; None = the service's default."""
    burst: int | None = Field(default=None, ge=1)
    """Requests at once; None = the service's default."""

    def state(self, now: datetime) -> str:
        """`active`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"


class KeyFile(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = Field(default=SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    keys: list[Key] = []


class KeyStore:
    """The keys of one directory.

    Args:
        directory: Holds `keys.json`; made by the first key.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._keys: dict[str, Key] = {}
        self._stamp: tuple[int, int] | None = None
        self._is_broken = False
        self._look_again = 0.0

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever made here; a revoked one counts, so that revoking the last one opens nothing."""
        self._refresh()
        return bool(self._keys) or self._is_broken

    def find(self, token: str) -> Key | None:
        """The active key of a token. How long the search takes says nothing about the hash."""
        self._refresh()
        match = _TOKEN.fullmatch(token)
        key = self._keys.get(match[1]) if match is not None else None
        offered = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        is_same = hmac.compare_digest(offered, key.sha256 if key is not None else _NOBODY)
        return key if key is not None and is_same and key.state(datetime.now(UTC)) == "active" else None

    def list_keys(self) -> list[Key]:
        """Every key, also those that no longer work, the oldest first.

        Raises:
            ConfigurationError: If the file is not one of keys.
        """
        return self._read().keys

    def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        days: float | None = None,
        requests_per_second: float | None = None,
        burst: int | None = None,
    ) -> tuple[Key, str]:
        """Make a key.

        Returns:
            The key, and its token, which is kept nowhere.

        Raises:
            ConfigurationError: If the name is taken by an active key, or a value is out of range.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        expires_at = _expiry(now, days)
        identity = secrets.token_hex(4)
        token = f"{PREFIX}_{identity}_{secrets.token_hex(SECRET_BYTES)}"
        try:
            key = Key(
                id=identity, name=name, scopes=tuple(dict.fromkeys(scopes)), created_at=now,
                sha256=hashlib.sha256(token.encode()).hexdigest(),
                expires_at=expires_at,
                requests_per_second=requests_per_second, burst=burst,
            )  # fmt: skip
        except ValidationError as error:
            raise _refusal(error) from None
        with self._changing() as content:
            if any(other.name == name and other.state(now) == "active" for other in content.keys):
                remedy = "Choose another name, or revoke that one first."
                raise ConfigurationError([Problem("key_name_taken", "NAME", f"{name!r} has an active key.", remedy)])
            content.keys.append(key)
        return key, token

    def revoke(self, reference: str) -> Key:
        """End a key by its id, or by its name; it stays in the list.

        Raises:
            ConfigurationError: If there is no such active key.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        with self._changing() as content:
            for place, key in enumerate(content.keys):
                if reference in (key.id, key.name) and key.state(now) != "revoked":
                    content.keys[place] = key.model_copy(update={"revoked_at": now})
                    return content.keys[place]
            message, remedy = f"there is no key {reference[:64]!r} that could be revoked.", "See `gradcast keys list`."
            raise ConfigurationError([Problem("key_unknown", "KEY", message, remedy)])

    @contextmanager
    def _changing(self) -> Iterator[KeyFile]:
        """The content of the file, to be changed by one process at a time; not written if the change fails."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self._read()
            yield content
            write_whole(self.path, content.model_dump_json(indent=1), mode=0o600)
        finally:
            os.close(lock)

    def _read(self) -> KeyFile:
        try:
            return KeyFile.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return KeyFile()
        except ValidationError:
            message, remedy = "must be a file of keys, but is not.", "Restore it, or remove it and make new keys."
            raise ConfigurationError([Problem("key_file_invalid", str(self.path), message, remedy)]) from None

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._look_again:
            return
        self._look_again = now + RELOAD_SECONDS
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._stamp, self._keys = stamp, {key.id: key for key in self._read().keys}
                self._is_broken = False
        except FileNotFoundError:
            self._stamp, self._keys, self._is_broken = None, {}, False
        except (OSError, ConfigurationError) as error:
            # A service that cannot read its keys lets nobody in.
            if not self._is_broken:
                logger.warning("no key is accepted: %s", error)
            self._stamp, self._keys, self._is_broken = None, {}, True


def _expiry(now: datetime, days: float | None) -> datetime | None:
    if days is None:
        return None
    try:
        if days > 0.0:
            return now + timedelta(days=days)
    except OverflowError:
        pass
    message = f"must be more than 0 and in the calendar, but is {days:g} instead."
    raise ConfigurationError([Problem("config_invalid", "DAYS", message)])


def _refusal(error: ValidationError) -> ConfigurationError:
    return ConfigurationError([
        Problem("config_invalid", str(detail["loc"][0]).upper(), f"{detail['msg']} (is {str(detail['input'])[:80]!r}).")
        for detail in error.errors(include_url=False)
    ])  # fmt: skip
