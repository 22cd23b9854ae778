"""Two calls of Linux that Python has only where it was built against a young C library, which many builds are not."""

from __future__ import annotations

import ctypes
import os
import sys

# memfd.h; and the number of pidfd_open(2), the same on every architecture that torch runs on.
_CLOSE_ON_EXEC = 1
_PIDFD_OPEN = 434


def anonymous_memory(label: str) -> int:
    """Memory without a name that processes can share, empty at first (memfd_create(2), Linux 3.17).

    Args:
        label: Shown to whoever looks at the process's descriptors; it need not be unique.

    Returns:
        Its descriptor, which is not inherited unless one asks for it.

    Raises:
        OSError: If this system has no such thing.
    """
    library = _library()
    if not hasattr(library, "memfd_create"):
        raise OSError("this C library has no memfd_create")
    return _checked(library.memfd_create(label.encode(), ctypes.c_uint(_CLOSE_ON_EXEC)))


def process_descriptor(pid: int) -> int:
    """A descriptor that becomes readable when the process ends (pidfd_open(2), Linux 5.3).

    Args:
        pid: Of a process that lives or was not yet waited for.

    Raises:
        OSError: If this system has no such thing, or there is no such process.
    """
    return _checked(_library().syscall(ctypes.c_long(_PIDFD_OPEN), ctypes.c_int(pid), ctypes.c_uint(0)))


def _library() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise OSError(f"{sys.platform} is not Linux")
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
