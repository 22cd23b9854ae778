"""Commands in processes of their own: limits, stopping, and what happens when the parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.jobs.job_directory import is_locked, take_lock
from app.jobs.subprocesses import Limits, run_limited

ROOMY = Limits(30.0, 2**30, grace_seconds=5.0)
# Says that it listens, then waits; SIGTERM ends it with a code of its own.
OBEDIENT = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def run(code: str, *arguments: str, limits: Limits = ROOMY, **options):
    command = [sys.executable, "-c", code, *arguments]
    return run_limited(command, limits, subprocess.DEVNULL, subprocess.DEVNULL, **options)


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


def test_a_command_that_ends_by_itself_keeps_its_exit_code():
    """Code, reason and environment go through."""
    ended = run("import os, sys; sys.exit(int(os.environ['CODE']))", environment={"CODE": "7"})
    assert (ended.exit_code, ended.reason) == (7, "exit")


def test_a_command_that_crashes_shows_its_signal():
    """A negative code is the signal, as for the segmentation fault of a library."""
    ended = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert (ended.exit_code, ended.reason) == (-signal.SIGKILL, "exit")


def test_time_that_is_up_is_said_with_sigterm(tmp_path):
    """The command may still write what it has; it is not killed at once."""
    ended = run(OBEDIENT, str(tmp_path / "up"), limits=Limits(1.0, 2**30, 5.0))
    assert ended.reason == "time"
    assert ended.exit_code == (130 if (tmp_path / "up").exists() else -signal.SIGTERM)


def test_a_command_that_does_not_obey_is_killed():
    """Behind SIGTERM stands SIGKILL."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    began = time.monotonic()
    ended = run(code, limits=Limits(1.0, 2**30, grace_seconds=0.3))
    assert ended.reason == "time"
    assert ended.exit_code in (-signal.SIGKILL, -signal.SIGTERM)
    assert time.monotonic() - began < 10


def test_too_much_memory_ends_it():
    """Resident memory counts, not what is only reserved."""
    ended = run("block = bytearray(300_000_000); import time; time.sleep(60)", limits=Limits(30.0, 150_000_000))
    assert (ended.exit_code, ended.reason) == (-signal.SIGKILL, "memory")


def test_a_request_stops_it(tmp_path):
    """Whoever asks gets the exit code of an orderly end."""
    ended = run(OBEDIENT, str(tmp_path / "up"), is_stop_requested=(tmp_path / "up").exists)
    assert (ended.exit_code, ended.reason) == (130, "stopped")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_command_ends_when_its_parent_is_killed(tmp_path, repository):
    """A parent that is killed -9 cannot stop anybody; the command gets SIGTERM all the same, and its lock becomes free."""
    lock, ready = tmp_path / "lock", tmp_path / "ready"
    parent_code = (
        "import subprocess, sys; from pathlib import Path\n"
        "from app.jobs.job_directory import take_lock\n"
        "from app.jobs.subprocesses import Limits, run_limited\n"
        "lock = take_lock(Path(sys.argv[1]))\n"
        f"run_limited([sys.executable, '-c', {OBEDIENT!r}, sys.argv[2]], Limits(60, 2**30), subprocess.DEVNULL, "
        "subprocess.DEVNULL, inherited=[lock])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code, str(lock), str(ready)], cwd=repository)
    try:
        wait_for(ready.exists)
        assert is_locked(lock)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not is_locked(lock))


def test_a_lock_is_free_only_when_every_heir_has_ended(tmp_path):
    """The lock of a killed worker is still held while the process that inherited it lives."""
    lock = tmp_path / "lock"
    descriptor = take_lock(lock)
    assert descriptor is not None
    heir = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=[descriptor], stdin=subprocess.PIPE)
    os.close(descriptor)
    assert is_locked(lock)
    assert take_lock(lock) is None
    heir.kill()
    heir.communicate()
    assert not is_locked(lock)
    assert not is_locked(Path(tmp_path / "never"))
