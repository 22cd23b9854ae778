"""What clients that leave, and a new version, do to everybody else: nothing, says the design; this counts.

Clients that leave send a whole request or a part of it and close their connection at a random moment, some with a reset.
Meanwhile steady clients ask one request after the other, and every answer is looked at.

usage: benchmarks/serving/disturbances.py [--disconnects 1000] [--poll-seconds 1]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

NUM_STEADY, NUM_LEAVING = 16, 16
MAX_STAY_SECONDS = 0.02
READY_SECONDS = 90.0


@dataclass
class Account:
    """What the steady clients saw.

    Attributes:
        statuses: Answers by status; 0 = the connection broke.
        versions: When each version of the model answered first, by `time.monotonic()`.
        slowest_seconds: The longest wait for an answer.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    versions: dict[int, float] = field(default_factory=dict)
    slowest_seconds: float = 0.0

    @property
    def num_failed(self) -> int:
        """Requests that did not end in a forecast."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def format(self) -> str:
        """Requests, failed ones, slowest: cells of a table."""
        return f"{self.statuses.total()} | {self.num_failed} | {self.slowest_seconds:.2f}"

    def document(self) -> dict[str, Any]:
        """As JSON content."""
        statuses = {str(status): count for status, count in self.statuses.items()}
        return {"statuses": statuses, "slowest_seconds": self.slowest_seconds}


class Clients:
    """Clients of one address.

    Args:
        url: Where they post.
        body: What they post.
    """

    def __init__(self, url: str, body: bytes) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port or 80
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def stay(self, account: Account, is_over: Callable[[], bool]) -> None:
        """Ask again and again over one connection, until `is_over`."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        while not is_over():
            begin = time.monotonic()
            writer.write(self._request)
            try:
                status, content = await _read_answer(reader)
            except (OSError, EOFError, ValueError):
                account.statuses[0] += 1
                reader, writer = await asyncio.open_connection(self._host, self._port)
                continue
            account.statuses[status] += 1
            account.slowest_seconds = max(account.slowest_seconds, time.monotonic() - begin)
            if status == 200:
                account.versions.setdefault(json.loads(content)["model"]["version"], time.monotonic())
        writer.close()

    async def leave(self, moments: random.Random) -> None:
        """Send a random part of a request, or all of it, and be gone a random moment later."""
        _, writer = await asyncio.open_connection(self._host, self._port)
        is_whole = moments.random() < 0.7
        writer.write(self._request if is_whole else self._request[: moments.randrange(1, len(self._request))])
        await asyncio.sleep(moments.uniform(0.0, MAX_STAY_SECONDS))
        if moments.random() < 0.5:  # a reset instead of a farewell
            plug = writer.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()


async def disconnect(clients: Clients, num_disconnects: int, seed: int = 0) -> Account:
    """So many clients that leave, among steady ones.

    Returns:
        What the steady ones saw.
    """
    account, moments = Account(), random.Random(seed)  # noqa: S311  a test's dice
    left = iter(range(num_disconnects))
    is_over = False

    async def leave_again_and_again() -> None:
        for _ in left:
            await clients.leave(moments)

    steady = [asyncio.create_task(clients.stay(account, lambda: is_over)) for _ in range(NUM_STEADY)]
    await asyncio.gather(*(leave_again_and_again() for _ in range(NUM_LEAVING)))
    is_over = True
    await asyncio.gather(*steady)
    return account


async def renew(clients: Clients, publish: Callable[[], None], version: int, patience_seconds: float) -> tuple[Account, float]:
    """A new version among steady clients.

    Args:
        clients: Who asks.
        publish: Makes the version the one to serve.
        version: Its number.
        patience_seconds: How long to wait for it.

    Returns:
        What the clients saw, and the seconds from `publish` to the version's first answer; infinite if it never answered.
    """
    account, begin, published_at = Account(), time.monotonic(), float("inf")

    def is_over() -> bool:
        return version in account.versions or time.monotonic() - begin > patience_seconds

    steady = [asyncio.create_task(clients.stay(account, is_over)) for _ in range(NUM_STEADY)]
    await asyncio.sleep(0.2)
    published_at = time.monotonic()
    publish()
    await asyncio.gather(*steady)
    return account, account.versions.get(version, float("inf")) - published_at


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


def main() -> int:
    """Serve, disturb, write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disconnects", type=int, default=1000)
    parser.add_argument("--poll-seconds", type=float, default=1.0)
    parser.add_argument("--port", type=int, default=18590)
    arguments = parser.parse_args()
    from network import write_bundle, write_requests
    from reporting import machine, write_results

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_requests(directory, 1)
        write_bundle(directory / "store" / "model" / "1")
        write_bundle(directory / "2")
        environment = os.environ | {
            "GRADCAST_BUNDLE": str(directory / "store"), "GRADCAST_PORT": str(arguments.port), "GRADCAST_OPEN": "always",
            "GRADCAST_POLL_SECONDS": str(arguments.poll_seconds), "GRADCAST_JOBS_DIRECTORY": str(directory / "jobs"),
            "GRADCAST_LOG_LEVEL": "warning", "PYTHONPATH": str(HERE.parents[1]),
        }  # fmt: skip
        address = f"http://127.0.0.1:{arguments.port}"
        clients = Clients(f"{address}/forecast", (directory / "gradcast-1.json").read_bytes())
        process = subprocess.Popen([sys.executable, "-m", "app"], env=environment, cwd=directory)
        try:
            _wait_ready(address)
            left = asyncio.run(disconnect(clients, arguments.disconnects))
            publish = lambda: os.replace(directory / "2", directory / "store" / "model" / "2")  # noqa: E731
            moved, seconds = asyncio.run(renew(clients, publish, 2, arguments.poll_seconds + 60.0))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    table = (
        "| disturbance | other requests | failed | slowest s | |\n|---|---|---|---|---|\n"
        f"| {arguments.disconnects} clients that left | {left.format()} | |\n"
        f"| a new version | {moved.format()} | served after {seconds:.1f} s; polls every {arguments.poll_seconds:g} s |\n"
    )
    document = {
        "machine": machine(), "job": vars(arguments), "disconnects": left.document(),
        "new_version": {**moved.document(), "seconds": seconds},
    }  # fmt: skip
    write_results("serving_disturbances", table, document)
    return 1 if left.num_failed or moved.num_failed else 0


def _wait_ready(address: str) -> None:
    give_up_at = time.monotonic() + READY_SECONDS
    while time.monotonic() < give_up_at:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):  # noqa: S310  loopback
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the service never got ready")


if __name__ == "__main__":
    sys.exit(main())
