"""What a training writes while it goes on, read from outside: its progress file and its view."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRESS, VIEW = "progress.jsonl", Path("gradients") / "view.json"
TAIL_BYTES = 4096
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Position:
    """How far a progress file has been read.

    Attributes:
        offset: Bytes.
        view_ns: Time stamp of the view that was read last.
    """

    offset: int = 0
    view_ns: int = 0


def read_lines(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Complete lines from an offset on, at most about a mebibyte of them; a half-written line waits for the next look.

    Returns:
        The lines, and the offset behind them.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            block = stream.read(READ_BYTES)
    except OSError:
        return [], offset
    complete = block[: block.rfind(b"\n") + 1]
    return [line for line in map(_parse, complete.splitlines()) if line], offset + len(complete)


def latest_values(run: Path) -> dict[str, Any]:
    """The newest value of everything the training reports: `step`, `max_steps`, `loss`, `val_loss`, `grad_norm`, `reach`."""
    path = run / PROGRESS
    try:
        size = path.stat().st_size
    except OSError:
        return {}
    lines, _ = read_lines(path, 0) if size <= TAIL_BYTES else _read_tail(path, size)
    values: dict[str, Any] = {}
    for line in lines:
        values |= line
    return values


def _read_tail(path: Path, size: int) -> tuple[list[dict[str, Any]], int]:
    first, _ = read_lines_head(path)
    with path.open("rb") as stream:
        stream.seek(size - TAIL_BYTES)
        _, _, rest = stream.read().partition(b"\n")
    return [*first, *(line for line in map(_parse, rest.splitlines()) if line)], size


def read_lines_head(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The first line, which holds the budget."""
    with path.open("rb") as stream:
        line = stream.readline()
    return [parsed for parsed in [_parse(line)] if parsed], len(line)


def read_view(run: Path, newer_than_ns: int = 0) -> tuple[dict[str, Any] | None, int]:
    """The view of a run if it was written after a time stamp, and its own."""
    path = run / VIEW
    try:
        stamp = path.stat().st_mtime_ns
        if stamp <= newer_than_ns:
            return None, newer_than_ns
        return dict(json.loads(path.read_bytes())), stamp
    except (OSError, ValueError):
        return None, newer_than_ns


def _parse(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
