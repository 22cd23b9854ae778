"""A body that trickles in is cut off with a 408 after a bounded time, and meanwhile holds up nobody."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from app.settings import ServiceSettings
from tests.integration.service.live_service import running
from tests.integration.service.service_bundles import series, write_bundle

SECONDS, NUM_TRICKLES = 1.5, 12


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A service that gives bodies a second and a half."""
    monkeypatch.setattr("app.routes.datasets.IDLE_SECONDS", SECONDS)
    write_bundle(tmp_path / "bundles" / "plain" / "1")
    settings = ServiceSettings(
        bundle=tmp_path / "bundles", jobs_directory=tmp_path / "jobs", job_workers=0, open="always",
        keys_directory=tmp_path / "keys", request_timeout_seconds=SECONDS,
    )  # fmt: skip
    with running(settings) as address:
        yield address


def trickle(address: str, path: str) -> tuple[float, str]:
    """Announce a body of a kilobyte and send a byte of it every tenth of a second; returns seconds and the whole answer."""
    parts = urlsplit(address)
    began = time.monotonic()
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode())
        stop = threading.Event()
        sender = threading.Thread(target=_send_slowly, args=(connection, stop))
        sender.start()
        answer = b""
        try:
            while piece := connection.recv(4096):
                answer += piece
        except ConnectionResetError:
            pass
        seconds = time.monotonic() - began
        stop.set()
        sender.join()
    return seconds, answer.decode()


def _send_slowly(connection: socket.socket, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        try:
            connection.sendall(b" ")
        except OSError:  # cut off
            return


def test_a_trickling_body_is_cut_off(address):
    """On every route that reads a body: 408 with a code, the connection is closed, all in bounded time."""
    operations = httpx.get(f"{address}/openapi.json").json()["paths"]
    paths = [path.replace("{name}", "plain") for path, methods in operations.items() if "requestBody" in methods.get("post", {})]
    assert {"/forecast", "/jobs", "/models/plain/promote", "/datasets"} <= set(paths)
    with ThreadPoolExecutor(len(paths)) as pool:
        answers = list(pool.map(lambda path: trickle(address, path), paths))
    for seconds, answer in answers:
        head, _, body = answer.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 408 ")
        assert "connection: close" in head.lower()
        assert json.loads(body)["code"] == "body_too_slow"
        assert SECONDS * 0.9 < seconds < SECONDS + 5.0


def test_trickling_bodies_hold_up_nobody(address):
    """With a dozen of them open, forecasts of others are answered as ever, none later than the trickles' own deadline."""
    threads = [threading.Thread(target=trickle, args=(address, "/forecast")) for _ in range(NUM_TRICKLES)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    answers = [httpx.post(f"{address}/forecast", json={"model": "plain", "series": [series()]}) for _ in range(5)]
    seconds = time.monotonic() - began
    assert [answer.status_code for answer in answers] == [200] * 5
    assert seconds < SECONDS
    for thread in threads:
        thread.join()


def test_the_document_names_the_408_wherever_a_body_is_read(address):
    """Every route with a request body lists 408 in OpenAPI."""
    paths = httpx.get(f"{address}/openapi.json").json()["paths"]
    reading = [operation for operations in paths.values() for operation in operations.values() if "requestBody" in operation]
    assert len(reading) >= 4
    assert all("408" in operation["responses"] for operation in reading)
