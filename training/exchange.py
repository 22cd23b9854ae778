"""How the parts of several processes become their sum in each of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, distributed

from training.errors import WorkerLostError

LOST = ("worker team", "complete", "without one of its processes", "Continue from the last checkpoint: add --resume.")


class Exchange(ABC):
    """Sums one flat tensor over the processes of a team, step after step."""

    @abstractmethod
    def reserve(self, bucket: Tensor) -> bool:
        """Make room for sums like this one; all processes ask together and get the same answer.

        Args:
            bucket: As long as the sums to come, of their number format and on their device.

        Returns:
            Whether there is room.
        """

    @abstractmethod
    def part(self, bucket: Tensor) -> Tensor:
        """Where this process writes its part of the next sum: as long as the bucket, and perhaps the bucket itself."""

    @abstractmethod
    def sum_(self, bucket: Tensor) -> None:
        """Fill the bucket with the sum of all parts: the same bits in every process.

        Raises:
            WorkerLostError: If a process is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """Take part in no more sums; whoever waits for this process learns that it is gone."""


@final
class CollectiveExchange(Exchange):
    """All-reduce: gloo between CPUs, nccl between GPUs, on one machine or many."""

    def reserve(self, bucket: Tensor) -> bool:
        """Nothing to reserve."""
        return True

    def part(self, bucket: Tensor) -> Tensor:
        """The bucket; its sum takes its place."""
        return bucket

    def sum_(self, bucket: Tensor) -> None:
        """In place."""
        with complete():
            distributed.all_reduce(bucket)

    def close(self) -> None:
        """The process group is closed by who opened it."""


def everybody(is_able: bool) -> bool:
    """Whether all processes are; none goes on before the last one has said so.

    Raises:
        WorkerLostError: If a process is gone.
    """
    unable = torch.tensor(float(not is_able))
    with complete():
        distributed.all_reduce(unable)
    return not unable


@contextmanager
def complete() -> Iterator[None]:
    """A collective operation, in which a lost process shows as a runtime error of its connection."""
    try:
        yield
    except RuntimeError:
        raise WorkerLostError(*LOST) from None
