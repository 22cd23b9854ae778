"""The limit: an ASGI function with orjson and the forward pass, nothing checked, nothing counted, nobody refused.

MODE=direct runs each request in the event loop. MODE=batch hands windows to one thread that takes whatever waits as
its next batch.
usage: MODE=direct MODEL_DIRECTORY=... uvicorn server_bare:app
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from network import load_network
from numpy.typing import NDArray

torch.set_num_threads(1)
NETWORK = load_network(Path(os.environ["MODEL_DIRECTORY"]))
MAX_BATCH = 256
HEADERS = [(b"content-type", b"application/json")]
Waiting = tuple[NDArray[np.float32], "asyncio.Future[NDArray[np.float32]]", asyncio.AbstractEventLoop]


@torch.inference_mode()
def forward(context: NDArray[np.float32]) -> NDArray[np.float32]:
    """Forecast a batch."""
    forecast: NDArray[np.float32] = NETWORK(torch.from_numpy(context)).numpy()
    return forecast


class Drain:
    """One thread; no timer."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._wake = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    async def forecast(self, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """Forecast in the company of whatever else waits."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[NDArray[np.float32]] = loop.create_future()
        with self._wake:
            self._waiting.append((context, future, loop))
            self._wake.notify()
        return await future

    def _run(self) -> None:
        torch.set_num_threads(1)
        while True:
            with self._wake:
                while not self._waiting:
                    self._wake.wait()
                works, size = [], 0
                while self._waiting and size < MAX_BATCH:
                    works.append(self._waiting.popleft())
                    size += len(works[-1][0])
            answers = forward(np.concatenate([context for context, _, _ in works]))
            works[0][2].call_soon_threadsafe(_resolve, works, answers)


def _resolve(works: list[Waiting], answers: NDArray[np.float32]) -> None:
    start = 0
    for context, future, _ in works:
        if not future.done():
            future.set_result(answers[start : start + len(context)])
        start += len(context)


drain = Drain() if os.environ.get("MODE") == "batch" else None


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer anything."""
    if scope["type"] != "http":
        return
    body, more = b"", scope["method"] == "POST"
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = b"{}"
    if body:
        context = np.array(orjson.loads(body)["series"], np.float32)
        forecast = forward(context) if drain is None else await drain.forecast(context)
        answer = orjson.dumps({"forecast": np.ascontiguousarray(forecast)}, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = [*HEADERS, (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
