"""Stands between a client and a server, and does to their conversation what networks do."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["pass", "slow", "error", "answer_lost", "gone"]
SLOW_SECONDS = 0.4
_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class FaultyProxy:
    """An address in front of an HTTP server.

    Attributes:
        uri: The address.
        mode: `pass`; `slow` answers late; `error` is a proxy's 503 page; `answer_lost` does what was asked, and every
            second time hangs up without a word; `gone` hangs up at once.
    """

    def __init__(self, target: str) -> None:
        self.mode: Mode = "pass"
        self._num_requests = 0
        self._target = urlsplit(target)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __getattr__(self, name: str) -> Callable[[], None]:
                if not name.startswith("do_"):
                    raise AttributeError(name)
                return lambda: proxy.handle(self)

            def log_message(self, *_words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[FaultyProxy]:
        """Listen."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """One request, as the mode says."""
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        mode, self._num_requests = self.mode, self._num_requests + 1
        if mode == "gone":
            request.close_connection = True
            return
        if mode == "error":
            self._answer(request, 503, {"Content-Type": "text/html"}, b"<h1>no upstream</h1>")
            return
        if mode == "slow":
            time.sleep(SLOW_SECONDS)
        status, headers, content = self._forward(request, body)
        if mode == "answer_lost" and self._num_requests % 2:
            request.close_connection = True
            return
        self._answer(request, status, headers, content)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=30)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP | {"host"}}
        try:
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except OSError:
            return 502, {}, b""
        finally:
            connection.close()

    def _answer(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
        request.send_response(status)
        for key, value in headers.items():
            if key.lower() not in _HOP:
                request.send_header(key, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
