"""How many threads torch may use: for what is measured beside the fit, and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: for small matrices and a handful of windows, more of them only wait for each other.

    On a busy machine with two cores, measuring took ten times as long with two; and with one the numbers, and what is
    chosen by them, do not depend on the machine's number of cores.
    """
    with kept_threads():
        torch.set_num_threads(1)
        yield


@contextmanager
def kept_threads() -> Iterator[None]:
    """Give torch back its number of threads afterwards: what one fit chose is no limit for the next."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
