"""One of several processes of a bulk forecast: is given the output folder and numbers of parts, writes them, says so on stdout.

What it is given comes through the socket that is its stdin: the folder's lock, the folder, and the numbers, one a line.

It ends when its stdin does, whatever it is at: whoever started it is gone then, and the part is begun anew by the next.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from models.bundle import Bundle, load_bundle
from models.errors import GradcastError
from training.allocator import keep_freed_memory
from training.bulk.parts import write_part
from training.bulk.plan import Plan, read_plan
from training.data.parquet_folder import ParquetTable, open_table
from training.errors import ProblemsError


def open_plan(output: Path) -> tuple[Plan, Bundle, ParquetTable]:
    """The plan of an output folder, with its model and its rows."""
    plan = read_plan(output)
    assert plan is not None, "the process that starts this one writes the plan first"
    return plan, load_bundle(Path(plan.bundle)), open_table(Path(plan.source), plan.data)


def describe_error(error: GradcastError | OSError) -> dict[str, Any]:
    """An error as the process that started this one raises it again."""
    if isinstance(error, ProblemsError):
        return {"problems": [vars(problem) for problem in error.problems]}
    if isinstance(error, OSError):
        return {"storage": [str(error.filename or "the output folder"), error.strerror or str(error)]}
    return {"message": str(error)}


def main() -> None:
    """Work until stdin ends."""
    keep_freed_memory()
    pa.set_memory_pool(pa.system_memory_pool())  # two allocators would each keep what they freed
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    orders = _orders()
    try:
        output = Path(json.loads(next(orders)))
        numbers = map(int, orders)
        first = next(numbers)  # until then there may be no plan
        plan, bundle, table = open_plan(output)
        for number in chain([first], numbers):
            _say({"done": number} | write_part(bundle, table, plan.parts[number], output, number).model_dump(mode="json"))
    except (GradcastError, OSError) as error:
        _say(describe_error(error))


def _orders() -> Iterator[str]:
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        with socket.socket(fileno=os.dup(sys.stdin.fileno())) as line, line.makefile("r", encoding="utf-8") as stream:
            socket.recv_fds(line, 1, 1)  # stays open, and so the folder locked, until this process ends
            for text in stream:
                waiting.put(text)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield waiting.get()


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
