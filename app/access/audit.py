"""The audit log: one JSON line for what somebody changed and for everything that was refused; no data, no token."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson

from app.access.rates import TokenBucket

logger = logging.getLogger(__name__)

FILE = "audit.jsonl"
MAX_ACTION = 256
# Whoever knocks all day must not fill the disk: so many refusals per second have a line, the next line counts the others.
REFUSALS_PER_SECOND, REFUSALS_AT_ONCE = 5.0, 50


class AuditLog:
    """Appends lines to a file, which is opened for every line: it may be moved away while the service runs.

    Args:
        path: The file; its directory is made by the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._refusals = TokenBucket(REFUSALS_PER_SECOND, REFUSALS_AT_ONCE)
        self._num_unwritten = 0

    def write(
        self, who: Mapping[str, str | None], action: str, outcome: int | str, is_refusal: bool = False, **more: str | None
    ) -> None:
        """Write one line; a full disk is logged and stops nobody's work.

        Args:
            who: `name` and `key_id` of the key, or `name` alone.
            action: Method and path, or the verb.
            outcome: HTTP status, or `done`.
            is_refusal: Whether this was refused; only so many of these per second have a line of their own.
            more: Further members; those that are None are left out.
        """
        if is_refusal and self._refusals.take() > 0.0:
            self._num_unwritten += 1
            return
        facts = {"action": action[:MAX_ACTION], "outcome": outcome, "unwritten_before": self._num_unwritten or None}
        self._num_unwritten = 0
        given = {key: value for key, value in ({**facts, **more}).items() if value is not None}
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "who": who, **given}
        try:
            self._append(orjson.dumps(line) + b"\n")
        except (OSError, orjson.JSONEncodeError) as error:
            logger.warning("the audit log cannot be written: %s", error)

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
