"""Runs a command that ends when its parent does: `python leash.py PARENT NICENESS PROGRAM ARGUMENTS...`.

A worker that is killed outright can tell nobody. Where the kernel can (Linux), it then sends this process SIGTERM, which a
training answers with a checkpoint; elsewhere the command runs on, and its lock says so to the next worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, lower its priority, and become the command."""
    parent, niceness, *command = sys.argv[1:]
    with contextlib.suppress(OSError, AttributeError):  # another kernel
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the line above
        sys.exit(128 + signal.SIGTERM)
    with contextlib.suppress(OSError):
        os.nice(int(niceness))
    os.execv(command[0], command)  # noqa: S606  the caller's own interpreter, no shell


if __name__ == "__main__":
    main()
