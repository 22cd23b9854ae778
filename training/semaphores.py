"""POSIX semaphores in memory that processes share: counters with the memory order that flags of our own would lack.

Python has no atomic operations. A flag written by one process and read by another works by luck on x86, which keeps the
order of stores, and not on ARM, where the flag may be seen before the data it speaks of. POSIX promises for `sem_post`
and `sem_trywait` what is needed (IEEE 1003.1-2017, XBD 4.12, "Memory Synchronization"): what was written before a post is
seen after the wait that it lets through. glibc and musl keep that with an increment that releases and a decrement that
acquires, on every processor.
"""

from __future__ import annotations

import ctypes
import functools
import os

# sem_t has 32 bytes in glibc and musl on 64 bits; two lines of a cache keep one process's counter out of another's way.
SEMAPHORE_BYTES = 128


class Semaphore:
    """A counter in shared memory, at an address that is a multiple of `SEMAPHORE_BYTES`.

    Args:
        address: Where it is in this process.
    """

    def __init__(self, address: int) -> None:
        library = _library()
        self._address = ctypes.c_void_p(address)
        self._post, self._try_wait = library.sem_post, library.sem_trywait

    def initialize(self) -> None:
        """Set it to 0, for all processes; by one of them, before the others look.

        Raises:
            OSError: If this system has no unnamed semaphores between processes, as macOS.
        """
        if _library().sem_init(self._address, 1, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def post(self) -> None:
        """Count up: all that this process has read and written so far is before it."""
        self._post(self._address)

    def try_wait(self) -> bool:
        """Count down if it is above 0, and say whether it was; what this process reads from then on is after it."""
        return not self._try_wait(self._address)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    try:
        library.sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
        library.sem_post.argtypes = library.sem_trywait.argtypes = (ctypes.c_void_p,)
    except AttributeError:
        raise OSError("this C library has no semaphores") from None
    return library
