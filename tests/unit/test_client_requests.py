"""What the Python client sends and how it takes a refusal, against a server of a few lines."""

from __future__ import annotations

import email.message
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.client import Client, ServiceError


@pytest.fixture
def answers():
    """Status, headers and document by path; what is not there is a 404 without a document."""
    return {}


@pytest.fixture
def heard():
    """Method, path and Authorization of every request."""
    return []


@pytest.fixture
def address(answers, heard):
    """Where a server answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append((self.command, self.path, self.headers["Authorization"]))
            status, headers, document = answers.get(self.path, (404, {}, None))
            body = b"<html>" if document is None else json.dumps(document).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  the name that the library asks for

        def log_message(self, *words):
            """Be silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_importing_the_client_imports_nothing_heavy(repository):
    """A program that only asks needs neither torch, a web framework, pandas nor numpy."""
    heavy = {"torch", "fastapi", "starlette", "uvicorn", "pandas", "numpy", "mlflow"}
    program = f"import sys, app.client; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


@pytest.mark.network
def test_the_key_goes_to_the_service_and_nowhere_else(address, answers, heard):
    """Every request carries the key; the one that a redirection leads to does not."""
    answers["/jobs"] = (302, {"Location": f"{address}/elsewhere"}, {})
    answers["/elsewhere"] = (200, {}, {"jobs": [], "has_worker": False})
    assert Client(address, key="gradcast_secret").jobs().jobs == []
    assert heard == [("GET", "/jobs", "Bearer gradcast_secret"), ("GET", "/elsewhere", None)]


@pytest.mark.network
def test_names_cannot_leave_their_place_in_the_path(address, heard):
    """A name with slashes, dots, blanks or a question mark is one part of the path."""
    with pytest.raises(ServiceError):
        Client(f"{address}/").model("a/../b c?d")
    assert heard == [("GET", "/models/a%2F..%2Fb%20c%3Fd", None)]


@pytest.mark.network
def test_an_answer_that_is_no_problem_document_is_a_service_error_too(address):
    """What a proxy says in HTML has status, the code `unknown` and a sentence."""
    with pytest.raises(ServiceError, match=r"unknown \(404\)") as refusal:
        Client(address).models()
    assert (refusal.value.status, refusal.value.code, refusal.value.document) == (404, "unknown", {})


def test_the_client_waits_as_long_as_it_is_told(monkeypatch):
    """A 429 with Retry-After is tried again within the patience, and raised after it."""
    headers = email.message.Message()
    headers["Retry-After"] = "1"
    slept, answers = [], []

    def refuse(request, timeout):
        answers.append(request.full_url)
        raise urllib.error.HTTPError(request.full_url, 429, "busy", headers, None)

    clock = [0.0]

    def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("app.client.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("app.client.time.sleep", sleep)
    with pytest.raises(ServiceError) as refusal:
        Client(patience_seconds=2.5).models()
    assert (refusal.value.status, slept, len(answers)) == (429, [1.0, 1.0], 3)
