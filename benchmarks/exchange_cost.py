"""What one sum of gradients costs between processes of one machine: the figures behind docs/adr/0012.

Every process computes for a few milliseconds, as a step does, and then takes part in the sum of a flat tensor: by gloo's
all-reduce, or in shared memory. The time is that of the first process, which also waits where another is late.

usage: python -m benchmarks.exchange_cost [--workers 2] [--rounds 5] [--sums 100] [--work-milliseconds 4]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
from torch import distributed

from benchmarks.reporting import machine, write_results
from training.exchange import CollectiveExchange, Exchange
from training.launching import LOOPBACK, LOOPBACK_INTERFACE
from training.shared_exchange import Segment, SharedExchange

LENGTHS = (25_000, 200_000)


def sums(exchange: Exchange, length: int, arguments: argparse.Namespace) -> list[float]:
    """Milliseconds of every sum."""
    bucket, taken = torch.zeros(length), []
    exchange.reserve(bucket)
    for _ in range(arguments.sums):
        until = time.thread_time() + arguments.work_milliseconds / 1e3
        while time.thread_time() < until:  # processor time: whoever is held up by others is late
            pass
        exchange.part(bucket).fill_(1.0)
        started = time.perf_counter()
        exchange.sum_(bucket)
        taken.append(1e3 * (time.perf_counter() - started))
    return taken


def run(rank: int, port: int, segment: Segment, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """One process's part; both ways in turn, so that a noisy minute hits both."""
    torch.set_num_threads(1)
    shared = SharedExchange(segment, rank)
    store = distributed.TCPStore(LOOPBACK, port, is_master=False)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=arguments.workers)
    ways: dict[str, Exchange] = {"gloo": CollectiveExchange(), "shared memory": shared}
    results: dict[str, list[float]] = {f"{way}, {length:,} numbers": [] for length in LENGTHS for way in ways}
    for _ in range(arguments.rounds):
        for length in LENGTHS:
            for way, exchange in ways.items():
                results[f"{way}, {length:,} numbers"] += sums(exchange, length, arguments)
    distributed.destroy_process_group()
    return results


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sums", type=int, default=100, help="of every round, way and length")
    parser.add_argument("--work-milliseconds", type=float, default=4.0, help="of processor time before each")
    arguments = parser.parse_args()
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE
    segment = Segment.create(arguments.workers)
    children = []
    # The store starts a thread, so the others are there before it; they learn its port through a pipe.
    reading, writing = os.pipe()
    for rank in range(1, arguments.workers):
        child = os.fork()
        if child == 0:
            run(rank, int(os.read(reading, 5)), segment, arguments)
            os._exit(0)
        children.append(child)
    store = distributed.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
    os.write(writing, f"{store.port:05d}".encode() * len(children))
    results = run(0, store.port, segment, arguments)
    for child in children:
        os.waitpid(child, 0)
    lines = ["| | ms, median | 9 of 10 are below |", "|---|---|---|"]
    deciles = {name: statistics.quantiles(taken, n=10) for name, taken in results.items()}
    lines += [f"| {name} | {parts[4]:.2f} | {parts[8]:.2f} |" for name, parts in deciles.items()]
    load = f"{os.getloadavg()[0]:.1f} processes wanted to run in the last minute, those of this benchmark included."
    document = {"machine": machine(), "job": vars(arguments), "load_average": os.getloadavg(), "deciles_milliseconds": deciles}
    write_results("exchange_cost", "\n".join([*lines, "", load, ""]), document)


if __name__ == "__main__":
    main()
