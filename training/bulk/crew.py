"""Processes that share the parts of a bulk forecast."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import IO, Any, Self

from models.errors import GradcastError
from training.bulk.plan import DonePart
from training.errors import DataError, Problem, StorageError, WorkerLostError

WORKER = ("-P", "-m", "training.bulk.worker")  # -P: a folder `training` here is not meant
REMEDY = "Start the same command again: it goes on with the parts that are missing."


class Crew:
    """The processes, started at once: they load their libraries while the work is planned.

    Args:
        output: The output folder; its plan must be there when parts are asked for.
        size: Processes.
        lock: Descriptor of the folder's lock, which every process keeps until it ends.
    """

    def __init__(self, output: Path, size: int, lock: int) -> None:
        self.processes = [_start(output, lock) for _ in range(size)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        _end(self.processes)

    def write(self, numbers: Sequence[int], on_done: Callable[[DonePart], None]) -> None:
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
        with ThreadPoolExecutor(len(self.processes)) as threads:
            futures = [threads.submit(_lead, process, waiting, stop, on_done) for process in self.processes]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                stop.set()
                _end(self.processes)
                raise


def _start(output: Path, lock: int) -> subprocess.Popen[str]:
    command = [sys.executable, *WORKER, str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(  # noqa: S603  our own command
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(lock,)
    )


def _lead(
    process: subprocess.Popen[str],
    waiting: queue.SimpleQueue[int],
    stop: Event,
    on_done: Callable[[DonePart], None],
) -> None:
    """Give one process a part after the other."""
    orders, answers = process.stdin, process.stdout
    assert orders is not None
    assert answers is not None
    while not stop.is_set():
        try:
            number = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            on_done(_ask(process, orders, answers, number))
        except BaseException:
            stop.set()
            raise


def _ask(process: subprocess.Popen[str], orders: IO[str], answers: IO[str], number: int) -> DonePart:
    try:
        orders.write(f"{number}\n")
        orders.flush()
        line = answers.readline()
    except (BrokenPipeError, ValueError):
        line = ""
    if not line:
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        actual = f"without process {process.pid}, ended by {how}"
        raise WorkerLostError("bulk forecast", "worked on by all its processes", actual, REMEDY)
    answer: dict[str, Any] = json.loads(line)
    if answer.pop("done", None) is None:
        raise _error(answer)
    return DonePart.model_validate(answer)


def _error(answer: dict[str, Any]) -> GradcastError:
    if "problems" in answer:
        return DataError([Problem(**problem) for problem in answer["problems"]])
    if "storage" in answer:
        where, why = answer["storage"]
        return StorageError(where, "readable and writable", f"not ({why})", REMEDY)
    return WorkerLostError("bulk forecast", "worked on by all its processes", f"stopped: {answer['message']}", REMEDY)


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
