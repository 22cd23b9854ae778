"""Locks that end with their holder."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from training.file_lock import is_locked, take_lock


def test_a_lock_is_held_by_one_and_free_after_it(tmp_path: Path) -> None:
    """A second wish gets nothing until the first descriptor is closed."""
    path = tmp_path / "lock"
    first = take_lock(path)
    assert first is not None
    assert is_locked(path)
    assert take_lock(path) is None
    os.close(first)
    assert not is_locked(path)
    second = take_lock(path)
    assert second is not None
    os.close(second)


def test_looking_makes_no_file(tmp_path: Path) -> None:
    """A directory without a lock is one that nobody is at."""
    assert not is_locked(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()


def test_patience_outlasts_a_holder_of_a_moment(tmp_path: Path) -> None:
    """Whoever only looks holds it for an instant, and must not be taken for a holder."""
    path = tmp_path / "lock"
    looking = take_lock(path)
    assert looking is not None
    timer = threading.Timer(0.1, os.close, (looking,))
    timer.start()
    own = take_lock(path, patience_seconds=5.0)
    timer.join()
    assert own is not None
    os.close(own)
