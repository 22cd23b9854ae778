"""The processes of a bulk forecast: what they are given, and what is said when one of them is gone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from training.bulk import crew
from training.bulk.crew import Answer, Crew
from training.errors import WorkerLostError

# Says what it was given: the descriptor's file, the folder, and every number as a part; 13 is its end.
ECHO = """
import json, os, signal, socket, sys
with socket.socket(fileno=0) as line:
    _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    orders = line.makefile("r")
    folder = json.loads(next(orders))
    for number in map(int, orders):
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        inode = os.fstat(descriptors[0]).st_ino
        print(json.dumps({"done": number, "name": str(number), "folder": folder, "inode": inode}), flush=True)
"""


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones take seconds to start."""
    monkeypatch.setattr(crew, "WORKER", ("-S", "-c", ECHO))


def test_every_number_goes_to_one_process_with_folder_and_lock(tmp_path: Path) -> None:
    """Each part is answered once; all processes hold the descriptor that they were sent."""
    path, answers = tmp_path / "lock", list[Answer]()
    lock = os.open(path, os.O_CREAT | os.O_RDWR)
    with Crew(2) as processes:
        processes.join(tmp_path / "a folder", lock)
        processes.write(range(9), answers.append)
    os.close(lock)
    assert sorted(answer["name"] for answer in answers) == [str(number) for number in range(9)]
    assert {(answer["folder"], answer["inode"]) for answer in answers} == {(str(tmp_path / "a folder"), path.stat().st_ino)}


def test_the_folder_stays_locked_until_the_last_process_has_ended(tmp_path: Path) -> None:
    """Whoever started them may be gone first: nobody else begins while they may still write."""
    lock, other = (os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR) for _ in range(2))
    fcntl.flock(lock, fcntl.LOCK_EX)
    with Crew(1) as processes:
        processes.join(tmp_path, lock)
        processes.write([1], lambda _answer: None)
        os.close(lock)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


@pytest.mark.parametrize("numbers", [[13], [1, 2, 13, 3]])
def test_a_process_that_ends_early_is_named_with_its_signal(tmp_path: Path, numbers: list[int]) -> None:
    """At its first part or a later one; the remedy is to start again."""
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    with Crew(1) as processes:
        processes.join(tmp_path, lock)
        with pytest.raises(WorkerLostError, match=r"ended by signal 9.*Start the same command again"):
            processes.write(numbers, lambda _answer: None)
    os.close(lock)


def test_a_process_that_never_began_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends while the work is planned."""
    monkeypatch.setattr(crew, "WORKER", ("-S", "-c", "raise SystemExit(7)"))
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    with Crew(1) as processes:
        processes._members[0].process.wait()
        processes.join(tmp_path, lock)
        with pytest.raises(WorkerLostError, match="ended by exit code 7"):
            processes.write([0], lambda _answer: None)
    os.close(lock)
