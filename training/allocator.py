"""Keep the C allocator from giving every step's workspace back to the kernel.

glibc maps large blocks anew at every step and the kernel must zero their pages: thousands of page faults a step. With
these three settings freed blocks stay with the process. It must be called before the first large allocation.
"""

from __future__ import annotations

import ctypes
import sys

# Parameter numbers of mallopt(3) in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER_TRIM = 2**31 - 1
_TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory instead of unmapping it.

    Returns:
        Whether the allocator accepted; False on other C libraries, where nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has no mallopt
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER_TRIM), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
