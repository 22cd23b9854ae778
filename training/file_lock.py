"""Locks that the system gives back when their holder dies, however it dies: a free one means that nobody is at it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

# Whoever looks whether a lock is free holds it for an instant.
RETRY_SECONDS = 0.5
POLL_SECONDS = 0.05


def take_lock(path: Path, patience_seconds: float = 0.0) -> int | None:
    """Lock a file until its descriptor, and every inherited copy of it, is closed.

    Args:
        path: The file; made if it is absent.
        patience_seconds: How long to go on asking.

    Returns:
        The descriptor; None if somebody else holds the lock.

    Raises:
        OSError: If the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(POLL_SECONDS)
        else:
            return descriptor


def is_locked(path: Path) -> bool:
    """Whether a live process holds the lock of a file; False where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
