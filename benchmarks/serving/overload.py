"""Ten times more requests than the service can answer: what was accepted must stay quick, the rest must be told at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

FACTOR = 10
SECONDS = 4.0
MAX_CONNECTIONS = 200
NUM_UNLOADED = 150


@dataclass(frozen=True)
class Overload:
    """What came out.

    Attributes:
        unloaded_p99_ms: One client alone.
        capacity_per_second: Requests answered per second by four clients.
        offered_per_second: Requests sent per second, whatever came back.
        accepted_p50_ms: Of the answers with 200, from the moment of sending.
        accepted_p99_ms: The same.
        statuses: Answers by status.
        memory_mib: Before and after.
    """

    unloaded_p99_ms: float
    capacity_per_second: float
    offered_per_second: float
    accepted_p50_ms: float
    accepted_p99_ms: float
    statuses: dict[int, int]
    memory_mib: tuple[float, float]

    def document(self) -> dict[str, Any]:
        """As JSON content."""
        return {**asdict(self), "statuses": {str(status): count for status, count in self.statuses.items()}}

    def format(self) -> str:
        """A table of one row."""
        counts = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        return (
            "| overload, 100 series per request | p99 alone ms | capacity/s | offered/s "
            "| accepted p50 / p99 ms | answers | memory MiB |\n"
            "|---|---|---|---|---|---|---|\n"
            f"| gradcast | {self.unloaded_p99_ms:.1f} | {self.capacity_per_second:.0f} | {self.offered_per_second:.0f} "
            f"| {self.accepted_p50_ms:.1f} / {self.accepted_p99_ms:.1f} | {counts} "
            f"| {self.memory_mib[0]:.0f} .. {self.memory_mib[1]:.0f} |\n"
        )


def measure_overload(url: str, body: Path, memory_mib: Callable[[], float]) -> Overload:
    """Alone, at capacity, far beyond it."""
    return asyncio.run(_Load(url, body.read_bytes()).measure(memory_mib))


class _Load:
    def __init__(self, url: str, body: bytes) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._address = (parts.hostname, parts.port)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def measure(self, memory_mib: Callable[[], float]) -> Overload:
        alone = [await self._post() for _ in range(NUM_UNLOADED)]
        capacity = await self._capacity()
        before = memory_mib()
        answers, offered = await self._storm(capacity * FACTOR)
        accepted = [1000 * seconds for status, seconds in answers if status == 200]
        p50, p99 = np.percentile(accepted, [50, 99])
        return Overload(
            float(np.percentile([1000 * seconds for _, seconds in alone], 99)), capacity, offered, float(p50), float(p99),
            dict(Counter(status for status, _ in answers)), (before, memory_mib()),
        )  # fmt: skip

    async def _capacity(self) -> float:
        end, count = time.perf_counter() + SECONDS / 2, 0

        async def client() -> None:
            nonlocal count
            while time.perf_counter() < end:
                status, _ = await self._post()
                count += status == 200

        await asyncio.gather(*(client() for _ in range(4)))
        return count / (SECONDS / 2)

    async def _storm(self, rate: float) -> tuple[list[tuple[int, float]], float]:
        """Send at a fixed rate, whatever comes back, as far as the connections suffice."""
        begin, tasks, running = time.perf_counter(), [], set[asyncio.Task[tuple[int, float]]]()
        while (now := time.perf_counter() - begin) < SECONDS:
            while len(tasks) < now * rate and len(running) < MAX_CONNECTIONS:
                task = asyncio.create_task(self._post())
                running.add(task)
                task.add_done_callback(running.discard)
                tasks.append(task)
            await asyncio.sleep(0.0005)
        sent = len(tasks) / (time.perf_counter() - begin)
        return list(await asyncio.gather(*tasks)), sent

    async def _post(self) -> tuple[int, float]:
        """Status and seconds of one request on an idle connection, or a new one."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address, limit=2**24)
        begin = time.perf_counter()
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        seconds = time.perf_counter() - begin
        await writer.drain()
        self._idle.append((reader, writer))
        return int(head[9:12]), seconds
