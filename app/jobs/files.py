"""Small files that are written whole or not at all, and names that are safe to be files."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
MAX_NAME = 80


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, also after a power cut.

    Raises:
        OSError: If the disk refuses; nothing is left behind then.
    """
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with staging.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            staging.unlink()
        raise


def safe_file_name(name: str, default: str = "data.csv") -> str:
    """The last part of a name that somebody sent, in harmless characters: no separators, no leading dot."""
    last = name.replace("\\", "/").rpartition("/")[2]
    safe = _UNSAFE.sub("_", last).strip("._-")[-MAX_NAME:].lstrip("._-")
    return safe or default
