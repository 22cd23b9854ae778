"""Parts of several processes are summed in shared memory; here threads play the processes, with a mapping each."""

from __future__ import annotations

import logging
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from torch import Tensor

from training import launching, shared_exchange
from training.errors import WorkerLostError
from training.linux_calls import process_descriptor
from training.shared_exchange import Segment, SharedExchange

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gloo sums where there is no anonymous shared memory")

LENGTHS = (3, 1001, 40, 5000)


@pytest.fixture
def agreeing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets so many threads agree as processes do over their sockets."""

    def agree_among(size: int) -> None:
        answers: list[bool] = []
        before, after = threading.Barrier(size), threading.Barrier(size, answers.clear)

        def everybody(is_able: bool) -> bool:
            answers.append(is_able)
            before.wait()
            agreed = all(answers)
            after.wait()
            return agreed

        monkeypatch.setattr(shared_exchange, "everybody", everybody)

    return agree_among


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that plays the other one of a team, and takes part in nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def with_other(other: subprocess.Popen[bytes]) -> tuple[Segment, SharedExchange, Tensor]:
    """The first process of a team of two, ready to sum."""
    segment = Segment.create(2)
    segment.pids[1] = other.pid
    exchange, bucket = SharedExchange(segment, 0), torch.zeros(8)
    assert exchange.reserve(bucket)
    return segment, exchange, bucket


def part_of(rank: int, number: int, length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(1000 * number + rank))


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_has_the_same_bits_of_every_sum(size: int, agreeing: Callable[[int], None]) -> None:
    """Added up in the order of the ranks, over fits of several lengths, whoever is late."""
    agreeing(size)
    segment = Segment.create(size)

    def work(rank: int) -> list[Tensor]:
        exchange, sums, delays = team[rank], [], random.Random(rank)
        for length in LENGTHS:
            bucket = torch.empty(length)
            assert exchange.reserve(bucket)
            for number in range(60):
                exchange.part(bucket).copy_(part_of(rank, number, length))
                if delays.random() < 0.1:
                    time.sleep(1e-3 * delays.random())
                exchange.sum_(bucket)
                sums.append(bucket.clone())
        return sums

    with closing(segment), ThreadPoolExecutor(size) as threads:
        team = [SharedExchange(Segment(segment.descriptor, size), rank) for rank in range(size)]
        of_all = list(threads.map(work, range(size)))
    expected = [
        sum(part_of(rank, number, length) for rank in range(size)) for length in LENGTHS for number in range(60)
    ]
    for sums in of_all:
        assert all(torch.equal(one, two) for one, two in zip(sums, expected, strict=True))


def test_nobody_overwrites_what_another_still_reads(agreeing: Callable[[int], None]) -> None:
    """A process that is two sums ahead of the slowest waits for it: the slot of the sum before last is free by then."""
    agreeing(2)
    segment = Segment.create(2)
    with closing(segment), ThreadPoolExecutor(2) as threads:
        pair = [SharedExchange(Segment(segment.descriptor, 2), rank) for rank in range(2)]
        buckets = [torch.zeros(4), torch.zeros(4)]
        list(threads.map(SharedExchange.reserve, pair, buckets))
        slots = [pair[0].part(buckets[0]).data_ptr()]
        for number in (1.0, 2.0):
            for exchange, bucket in zip(pair, buckets, strict=True):
                exchange.part(bucket).fill_(number)
            list(threads.map(SharedExchange.sum_, pair, buckets))
            slots.append(pair[0].part(buckets[0]).data_ptr())
            assert buckets[0].tolist() == buckets[1].tolist() == [2 * number] * 4
        assert slots[0] != slots[1]
        assert slots[0] == slots[2]
        pair[0].part(buckets[0]).fill_(3.0)
        ahead = threads.submit(pair[0].sum_, buckets[0])
        time.sleep(0.1)
        assert not ahead.done()
        pair[1].part(buckets[1]).fill_(5.0)
        pair[1].sum_(buckets[1])
        ahead.result(10)
        assert buckets[0].tolist() == [8.0] * 4


def test_a_process_that_is_killed_is_missed_at_once(
    other: subprocess.Popen[bytes], agreeing: Callable[[int], None]
) -> None:
    """By whoever waits for its part."""
    agreeing(1)
    segment, exchange, bucket = with_other(other)
    killing = threading.Timer(0.2, other.kill)
    started = time.monotonic()
    killing.start()
    with closing(segment), closing(exchange), pytest.raises(WorkerLostError, match="without one of its processes"):
        exchange.sum_(bucket)
    assert 0.2 <= time.monotonic() - started < 10.0
    assert other.wait(10) != 0


def test_a_process_that_left_is_missed_and_its_last_part_is_summed(agreeing: Callable[[int], None]) -> None:
    """It may have other things to do still, but its sums are over."""
    agreeing(2)
    segment = Segment.create(2)
    with closing(segment), ThreadPoolExecutor(2) as threads:
        stays, leaves = (SharedExchange(segment, rank) for rank in range(2))
        buckets = [torch.zeros(4), torch.zeros(4)]
        list(threads.map(SharedExchange.reserve, (stays, leaves), buckets))
        stays.part(buckets[0]).fill_(1.0)
        leaves.part(buckets[1]).fill_(2.0)
        first = threads.submit(stays.sum_, buckets[0])
        leaves.sum_(buckets[1])
        leaves.close()
        first.result(10)
        assert buckets[0].tolist() == [3.0] * 4
        with pytest.raises(WorkerLostError):
            stays.sum_(buckets[0])


def test_waiting_for_long_does_not_occupy_a_processor(
    other: subprocess.Popen[bytes], agreeing: Callable[[int], None]
) -> None:
    """The leader may judge or write for minutes: whoever waits for it sleeps, and goes on soon after its part has come."""
    agreeing(1)
    segment, exchange, bucket = with_other(other)
    posting = threading.Timer(1.5, segment.semaphore(1, 0).post)
    started, busy = time.monotonic(), time.process_time()
    posting.start()
    with closing(segment), closing(exchange):
        exchange.sum_(bucket)
    assert time.process_time() - busy < 0.3 * 1.5
    assert 1.4 < time.monotonic() - started < 1.5 + 5.0


def test_the_memory_has_no_name_and_only_the_team_inherits_it() -> None:
    """So nothing can be left behind, and nobody else can open it."""
    segment = Segment.create(4)
    with closing(segment):
        assert not os.get_inheritable(segment.descriptor)
        assert os.fstat(segment.descriptor).st_nlink == 0


def test_where_one_process_has_no_memory_no_process_uses_it(
    agreeing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And that is said: with an own word for each way it can fail."""
    agreeing(2)
    segment = Segment.create(2)
    poor = Segment(segment.descriptor, 2)

    def refuse(_num_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(poor, "grow", refuse)
    with closing(segment), ThreadPoolExecutor(2) as threads, caplog.at_level(logging.WARNING):
        pair = (SharedExchange(segment, 0), SharedExchange(poor, 1))
        assert list(threads.map(SharedExchange.reserve, pair, (torch.zeros(4), torch.zeros(4)))) == [False, False]
    assert "worker 1" in caplog.text
    assert "No space left on device" in caplog.text


def test_a_system_without_shared_memory_sums_through_sockets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As macOS; it is said."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with caplog.at_level(logging.WARNING), launching._shared_memory(2) as segment:
        assert segment is None
    assert "darwin is not Linux" in caplog.text
    assert "gradients go through sockets" in caplog.text


def test_descriptors_of_processes_tell_of_their_end(other: subprocess.Popen[bytes]) -> None:
    """Readable from then on, though nobody has waited for the process; of a process that is not there, an error."""
    descriptor = process_descriptor(other.pid)
    assert select.select([descriptor], [], [], 0.0)[0] == []
    other.kill()
    assert select.select([descriptor], [], [], 10.0)[0] == [descriptor]
    os.close(descriptor)
    with pytest.raises(ProcessLookupError):
        process_descriptor(2**22 + 1)  # beyond the largest number that Linux gives


def test_gradients_on_a_gpu_are_not_for_shared_memory() -> None:
    """They have a way of their own, so nothing is asked and nothing said."""
    segment = Segment.create(2)
    with closing(segment):
        assert not SharedExchange(segment, 0).reserve(torch.empty(4, device="meta"))
