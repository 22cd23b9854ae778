"""Processes that share the parts of a bulk forecast.

They are started before anything is known of the forecast, because what they load takes seconds, and so does what the process
that starts them loads and plans. So this module loads none of that itself.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Self

from models.errors import GradcastError
from training.errors import DataError, Problem, StorageError, WorkerLostError

# -P: a folder `training` here is not meant.
WORKER = ("-P", "-c", "from training.loading import loading\nwith loading(): from training.bulk.worker import main\nmain()")
REMEDY = "Start the same command again: it goes on with the parts that are missing."

# A part as it was done, see `DonePart`.
Answer = dict[str, Any]


@dataclass(frozen=True)
class _Member:
    process: subprocess.Popen[str]
    line: socket.socket

    def tell(self, words: object) -> None:
        self.line.sendall(f"{json.dumps(words)}\n".encode())


class Crew:
    """The processes, started at once; they end with this one.

    Args:
        size: Processes.
    """

    def __init__(self, size: int) -> None:
        self._members = [_start() for _ in range(size)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        _end(self._members)

    def join(self, output: Path, lock: int) -> None:
        """Say where the forecast is written.

        Args:
            output: The output folder; its plan must be there when parts are asked for.
            lock: Descriptor of the folder's lock, which every process keeps until it ends.
        """
        for member in self._members:
            try:
                socket.send_fds(member.line, [b"\n"], [lock])
                member.tell(str(output))
            except OSError:  # it has ended, which is said when it is asked for a part
                continue

    def write(self, numbers: Sequence[int], on_done: Callable[[Answer], None]) -> None:
        """Have parts written.

        Args:
            numbers: Of the parts.
            on_done: Told of every part, from several threads.

        Raises:
            GradcastError: The first error of any process.
            WorkerLostError: If one of them ends early.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in numbers:
            waiting.put(number)
        stop = Event()
        with ThreadPoolExecutor(len(self._members)) as threads:
            futures = [threads.submit(_lead, member, waiting, stop, on_done) for member in self._members]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                stop.set()
                _end(self._members)
                raise


def _start() -> _Member:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    line, its_end = socket.socketpair()  # a pipe would not carry the lock
    with its_end:
        process = subprocess.Popen(  # noqa: S603  our own command
            [sys.executable, *WORKER], env=environment, stdin=its_end.fileno(), stdout=subprocess.PIPE, text=True,
            process_group=0,  # Ctrl-C is for the process that leads
        )  # fmt: skip
    return _Member(process, line)


def _lead(
    member: _Member,
    waiting: queue.SimpleQueue[int],
    stop: Event,
    on_done: Callable[[Answer], None],
) -> None:
    """Give one process a part after the other."""
    while not stop.is_set():
        try:
            number = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            on_done(_ask(member, number))
        except BaseException:
            stop.set()
            raise


def _ask(member: _Member, number: int) -> Answer:
    process = member.process
    assert process.stdout is not None
    try:
        member.tell(number)
        line = process.stdout.readline()
    except (OSError, ValueError):
        line = ""
    if not line:
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        actual = f"without process {process.pid}, ended by {how}"
        raise WorkerLostError("bulk forecast", "worked on by all its processes", actual, REMEDY)
    answer: Answer = json.loads(line)
    if answer.pop("done", None) is None:
        raise _error(answer)
    return answer


def _error(answer: Answer) -> GradcastError:
    if "problems" in answer:
        return DataError([Problem(**problem) for problem in answer["problems"]])
    if "storage" in answer:
        where, why = answer["storage"]
        return StorageError(where, "readable and writable", f"not ({why})", REMEDY)
    return WorkerLostError("bulk forecast", "worked on by all its processes", f"stopped: {answer['message']}", REMEDY)


def _end(members: Sequence[_Member]) -> None:
    for member in members:
        member.process.kill()
        member.process.wait()
        member.line.close()
        if member.process.stdout is not None:
            member.process.stdout.close()
