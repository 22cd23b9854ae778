"""The service on a real port of the loopback interface, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from app.main import create_app
from app.settings import ServiceSettings

READY_SECONDS = 60.0


@contextmanager
def running(settings: ServiceSettings) -> Iterator[str]:
    """A service on a free port; its address, once every model is loaded."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        give_up_at = time.monotonic() + READY_SECONDS
        while httpx.get(f"{address}/readyz").status_code != httpx.codes.OK:
            assert time.monotonic() < give_up_at, "the service never got ready"
            time.sleep(0.05)
        yield address
    finally:
        server.should_exit = True
        thread.join(30)
