"""How much a data file may unpack to: what this machine, or this container, has as memory."""

from __future__ import annotations

import os
from pathlib import Path

# Where a container's limit stands (cgroup 2 and 1).
CGROUP_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# Where nothing says how much memory there is.
UNKNOWN_BYTES = 16 * 2**30

_lowered: int | None = None


def unpacked_limit_bytes() -> int:
    """Most bytes that a file may take when it is unpacked."""
    if _lowered is not None:
        return _lowered
    limits = [_physical_bytes()]
    for path in CGROUP_FILES:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits)


def lower_unpacked_limit(max_bytes: int | None) -> None:
    """Allow less for the rest of this process, which somebody else has given its memory; None ends that."""
    global _lowered  # noqa: PLW0603  a property of the process, as its memory is
    _lowered = max_bytes


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return UNKNOWN_BYTES
