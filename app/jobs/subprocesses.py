"""Runs a command in a process of its own with limits on time and memory; it ends when this process does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

LEASH = Path(__file__).with_name("leash.py")
POLL_SECONDS = 0.1
NICENESS = 5
PYTHON = [sys.executable, "-P"]
"""Our own interpreter; -P: a folder named training in the current directory must not be taken for ours."""

Reason = Literal["exit", "stopped", "time", "memory"]


@dataclass(frozen=True)
class Limits:
    """What a command may use.

    Attributes:
        seconds: Wall-clock time.
        memory_bytes: Resident memory.
        grace_seconds: Between SIGTERM and SIGKILL.
    """

    seconds: float
    memory_bytes: int
    grace_seconds: float = 30.0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        exit_code: As the process reported it; negative: the signal that killed it.
        reason: Whether it ended by itself, was asked to stop, or met a limit.
        seconds: How long it ran.
    """

    exit_code: int
    reason: Reason
    seconds: float


def run_limited(
    command: Sequence[str],
    limits: Limits,
    stdout: BinaryIO | int,
    stderr: BinaryIO | int,
    is_stop_requested: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] | None = None,
    inherited: Sequence[int] = (),
    on_start: Callable[[int], None] = lambda _pid: None,
) -> Ended:
    """Run a command to its end.

    SIGTERM is sent when somebody asks it to stop and when its time is up, SIGKILL when it does not obey in time and when it
    takes too much memory.

    Args:
        command: Program and arguments.
        limits: What it may use.
        stdout: Where its output goes.
        stderr: Where its errors go.
        is_stop_requested: Asked about ten times a second.
        environment: Its environment; this process's if None.
        inherited: File descriptors it keeps open, such as a lock.
        on_start: Told the process id.

    Returns:
        How it ended.
    """
    began = time.monotonic()
    process = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
        [sys.executable, "-S", "-E", str(LEASH), str(os.getpid()), str(NICENESS), *command],
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment, pass_fds=tuple(inherited),
        start_new_session=True,
    )  # fmt: skip
    try:
        on_start(process.pid)
        reason = _watch(process, limits, is_stop_requested, began)
    finally:
        _end(process, 0.0)
    return Ended(process.returncode, reason, time.monotonic() - began)


def _watch(
    process: subprocess.Popen[bytes], limits: Limits, is_stop_requested: Callable[[], bool], began: float
) -> Reason:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            return "exit"
        if resident_bytes(process.pid) > limits.memory_bytes:
            _end(process, 0.0)
            return "memory"
        is_late = time.monotonic() - began > limits.seconds
        if is_late or is_stop_requested():
            _end(process, limits.grace_seconds)
            return "time" if is_late else "stopped"


def _end(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    if process.poll() is not None:
        return
    if grace_seconds > 0:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
            return
    process.kill()
    process.wait()


def resident_bytes(pid: int) -> int:
    """Physical memory of a process; 0 if it is gone or this system does not say."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return _resident_bytes_of_ps(pid) if not Path("/proc/self/statm").exists() else 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _resident_bytes_of_ps(pid: int) -> int:
    try:
        kibibytes = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False)  # noqa: S603, S607  a number, and the system's own ps
        return int(kibibytes.stdout) * 1024
    except (OSError, ValueError):
        return 0
