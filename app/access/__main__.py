"""`python -m app.access REQUEST`: what `gradcast keys` asks for, as one JSON document; the answer goes to stdout."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

from app.access.audit import FILE, AuditLog
from app.access.keys import Key, KeyStore
from app.access.scopes import Scope
from app.settings import load_settings
from training.errors import ConfigurationError


class KeyCommand(BaseModel):
    """One command about keys."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["create", "list", "revoke"]
    name: str = ""
    scopes: list[Scope] = []
    days: float | None = None
    requests_per_second: float | None = None
    burst: int | None = None
    as_json: bool = False


def run(command: KeyCommand) -> str:
    """Do it.

    Returns:
        What to print.

    Raises:
        ConfigurationError: If it cannot be done.
    """
    directory = load_settings().keys_directory
    store, audit = KeyStore(directory), AuditLog(directory / FILE)
    if command.action == "create":
        return _create(command, store, audit)
    if command.action == "revoke":
        return _revoke(command, store, audit)
    return _list(command, store)


def _create(command: KeyCommand, store: KeyStore, audit: AuditLog) -> str:
    key, token = store.create(
        command.name, command.scopes, command.days, command.requests_per_second, command.burst
    )
    audit.write(_user(), f"keys create {key.name}", "done", key_id=key.id, scopes=" ".join(key.scopes))
    if command.as_json:
        return _json({**_describe(key), "token": token})
    print(f"key {key.id} for {key.name}: {', '.join(key.scopes)}. Its token is shown this once:", file=sys.stderr)
    return token


def _list(command: KeyCommand, store: KeyStore) -> str:
    keys = [_describe(key) for key in store.list_keys()]
    if command.as_json:
        return _json({"keys": keys})
    if not keys:
        return f"no keys in {store.path.parent}"
    columns = ("id", "name", "state", "scopes", "created_at", "expires_at", "rate")
    rows = [columns, *(tuple(str(key[column]) for column in columns) for key in keys)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _revoke(command: KeyCommand, store: KeyStore, audit: AuditLog) -> str:
    key = store.revoke(command.name)
    audit.write(_user(), f"keys revoke {key.name}", "done", key_id=key.id)
    return _json(_describe(key)) if command.as_json else f"key {key.id} for {key.name} is revoked"


def _describe(key: Key) -> dict[str, Any]:
    rate = key.requests_per_second
    return {
        "id": key.id, "name": key.name, "state": key.state(datetime.now(UTC)), "scopes": ",".join(key.scopes),
        "created_at": _render(key.created_at), "expires_at": _render(key.expires_at),
        "rate": "-" if rate is None else f"{rate:g}/s", "burst": key.burst,
    }  # fmt: skip


def _render(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(document: Any) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def _user() -> dict[str, str | None]:
    try:
        return {"name": "command line", "user": getpass.getuser()}
    except (OSError, KeyError):  # a container's user may have no name
        return {"name": "command line"}


if __name__ == "__main__":
    try:
        print(run(KeyCommand.model_validate_json(sys.argv[1])))
    except ConfigurationError as error:
        print(f"gradcast keys: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"gradcast keys: {error}", file=sys.stderr)
        sys.exit(1)
