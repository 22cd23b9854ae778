"""Log lines: as text for people or as JSON for machines, each with the id of the request it belongs to."""

from __future__ import annotations

import itertools
import json
import logging
import re
import secrets
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that this task answers."""
WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
TEXT_FORMAT = "%(levelname)s %(name)s: %(message)s"

# Random once per process, then counted: as unique as a random id for each, and free.
_ids = map("{}-{:x}".format, itertools.repeat(secrets.token_hex(8)), itertools.count(1))


def choose_request_id(given: bytes | None) -> str:
    """The id that a client or proxy sent, if it is harmless in headers and logs; else a new one."""
    if given is not None and (match := WELL_FORMED.fullmatch(given.decode("latin-1"))) is not None:
        return match[0]
    return next(_ids)


class TextFormatter(logging.Formatter):
    """A line for people, with the request's id in front."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        request_id = REQUEST_ID.get()
        line = super().format(record)
        return f"[{request_id}] {line}" if request_id is not None else line


class JsonFormatter(logging.Formatter):
    """A JSON object per record: `at`, `level`, `logger`, `message`, `request_id`, and what `extra={"facts": {...}}` brings."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": REQUEST_ID.get(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in line.items() if value is not None}, default=str)


def configure_logging(level: str, log_format: str) -> None:
    """Send every record of the process to stderr in one form.

    Args:
        level: Name of the lowest level.
        log_format: `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(TEXT_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
