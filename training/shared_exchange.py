"""Sums through memory that the processes of one machine share, several times as fast as through their sockets.

A step takes milliseconds, and waking a process that sleeps in a socket takes one: whoever waits here looks again and
again for a moment, and only then sleeps, longer and longer.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import select
import time
from typing import final

import torch
from torch import Tensor

from training.errors import WorkerLostError
from training.exchange import LOST, Exchange, everybody
from training.linux_calls import anonymous_memory, process_descriptor
from training.semaphores import SEMAPHORE_BYTES, Semaphore

logger = logging.getLogger(__name__)

SLOTS = 2
# Looking, then letting others of this processor go first, then sleeping an eighth of what was waited so far.
SPINS, YIELD_SECONDS = 1000, 0.01
PAUSE_SHARE, MAX_PAUSE_MILLISECONDS = 8, 20.0
ALIGNMENT = max(mmap.ALLOCATIONGRANULARITY, SEMAPHORE_BYTES)


class Segment:
    """Anonymous memory of a team, found by a descriptor that its processes inherit.

    It has no name: nobody else can open it, nothing has to be unlinked, and the kernel takes it back with the last
    process, however that one ends. Nor does it count against the size of /dev/shm, which containers keep small.

    At its head are two numbers per process, and a semaphore per ordered pair of processes; what is summed follows.

    Args:
        descriptor: Of the memory.
        size: Number of processes.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor, self.size = descriptor, size
        self.head = mmap.mmap(descriptor, _head_bytes(size))
        numbers = ctypes.c_int64 * size
        os.set_inheritable(descriptor, False)  # by the team alone, and not by what a worker may start
        self.pids = numbers.from_buffer(self.head, 0)
        self.ends = numbers.from_buffer(self.head, ctypes.sizeof(numbers))

    @classmethod
    def create(cls, size: int) -> Segment:
        """A new one.

        Raises:
            OSError: If this system lacks such memory, semaphores in it or descriptors of processes.
        """
        os.close(process_descriptor(os.getpid()))  # they will be needed
        descriptor = anonymous_memory("gradcast")
        try:
            os.posix_fallocate(descriptor, 0, _head_bytes(size))
            segment = cls(descriptor, size)
            for pair in range(size * size):
                segment.semaphore(*divmod(pair, size)).initialize()
        except OSError:
            os.close(descriptor)
            raise
        return segment

    def semaphore(self, sender: int, receiver: int) -> Semaphore:
        """Counts the parts that one process has written and another has not yet read."""
        position = _numbers_bytes(self.size) + (sender * self.size + receiver) * SEMAPHORE_BYTES
        return Semaphore(ctypes.addressof(ctypes.c_char.from_buffer(self.head, position)))

    def grow(self, num_bytes: int) -> None:
        """Have so many bytes after the head.

        Raises:
            OSError: If the machine has no memory for them.
        """
        os.posix_fallocate(self.descriptor, _head_bytes(self.size), num_bytes)

    def body(self, num_bytes: int) -> Tensor:
        """The bytes after the head; they stay mapped as long as the tensor lives.

        Raises:
            OSError: If they cannot be mapped.
        """
        return torch.frombuffer(mmap.mmap(self.descriptor, num_bytes, offset=_head_bytes(self.size)), dtype=torch.uint8)

    def close(self) -> None:
        """Give the descriptor back; what is mapped stays."""
        os.close(self.descriptor)


@final
class SharedExchange(Exchange):
    """Every process writes its part into a slot of its own and reads the slots of all, in the order of their ranks.

    Each has two slots, for sums of even and of odd number. Nobody overwrites what somebody still reads: process p writes
    part n into the slot of part n-2. It has finished sum n-1 then, so it has waited for the post of every q for n-1. q
    posts n-1 after it has finished sum n-2, that is after its last look at the slots of n-2. And the looks of q come
    before the writes of p in memory too, because a post and the wait that it lets through order them.

    Args:
        segment: What the team shares.
        rank: Position of this process.
    """

    def __init__(self, segment: Segment, rank: int) -> None:
        self._segment, self._rank, self._size = segment, rank, segment.size
        self._others = [other for other in range(self._size) if other != rank]
        self._sent = [segment.semaphore(rank, other) for other in self._others]
        self._arrived = {other: segment.semaphore(other, rank) for other in self._others}
        self._number = 0
        self._body = torch.empty(0, dtype=torch.uint8)
        self._slots: list[list[Tensor]] = []
        self._ended = select.poll()
        self._watched: list[int] = []
        # With fewer processors than processes, whoever looks keeps away the one it looks for.
        self._spins = SPINS if len(os.sched_getaffinity(0)) >= self._size else 0
        segment.pids[rank] = os.getpid()

    def reserve(self, bucket: Tensor) -> bool:
        """Everybody's two slots, if the bucket is in memory and not on a GPU; said aloud where they cannot be had.

        All are here before anyone goes on, so that nobody still reads what is laid out anew.
        """
        if bucket.device.type != "cpu":
            return False
        length = bucket.numel() * bucket.element_size()
        stride = -(-length // SEMAPHORE_BYTES) * SEMAPHORE_BYTES
        problem = self._problem(SLOTS * self._size * stride)
        if not everybody(problem is None):
            if problem is not None:
                logger.warning("no shared memory for worker %d (%s): gradients go through sockets", self._rank, problem)
            return False
        slots = [self._body[position * stride :][:length].view(bucket.dtype) for position in range(SLOTS * self._size)]
        self._slots = [slots[half * self._size : (half + 1) * self._size] for half in range(SLOTS)]
        return True

    def _problem(self, num_bytes: int) -> str | None:
        """Why there are not so many bytes for this process; None if there are."""
        try:
            self._watch()
            if num_bytes > len(self._body):
                self._segment.grow(num_bytes)  # whoever comes second finds it done
                self._body = self._segment.body(num_bytes)
        except OSError as error:
            return str(error)
        return None

    def _watch(self) -> None:
        for other in self._others[len(self._watched) :]:
            self._watched.append(process_descriptor(self._segment.pids[other]))
            self._ended.register(self._watched[-1], select.POLLIN)

    def part(self, bucket: Tensor) -> Tensor:
        """This process's slot of the sum to come."""
        return self._slots[(self._number + 1) % SLOTS][self._rank]

    def sum_(self, bucket: Tensor) -> None:
        """Additions of whole tensors one after the other: every element is rounded as in every other process."""
        self._number += 1
        for semaphore in self._sent:
            semaphore.post()
        for other in self._others:
            self._wait(other)
        first, second, *rest = self._slots[self._number % SLOTS]
        torch.add(first, second, out=bucket)
        for slot in rest:
            bucket.add_(slot)

    def _wait(self, other: int) -> None:
        try_wait = self._arrived[other].try_wait
        if any(try_wait() for _ in range(self._spins)):
            return
        started = time.monotonic()
        while not try_wait():
            waited = time.monotonic() - started
            if waited < YIELD_SECONDS:
                os.sched_yield()
            elif self._has_lost(other, min(1e3 * waited / PAUSE_SHARE, MAX_PAUSE_MILLISECONDS)):
                if try_wait():  # it was done before it left
                    return
                raise WorkerLostError(*LOST)

    def _has_lost(self, other: int, milliseconds: float) -> bool:
        """Sleep so long, or until a process of the team ends; whether one did, or left before the sum that is waited for."""
        return bool(self._ended.poll(milliseconds)) or 0 < self._segment.ends[other] <= self._number

    def close(self) -> None:
        """Leave; what this process has posted can still be summed by others."""
        self._segment.ends[self._rank] = self._number + 1
        while self._watched:
            os.close(self._watched.pop())
        self._ended = select.poll()


def _numbers_bytes(size: int) -> int:
    return -(-2 * size * ctypes.sizeof(ctypes.c_int64) // SEMAPHORE_BYTES) * SEMAPHORE_BYTES


def _head_bytes(size: int) -> int:
    return -(-(_numbers_bytes(size) + size * size * SEMAPHORE_BYTES) // ALIGNMENT) * ALIGNMENT
