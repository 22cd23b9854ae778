"""A PostgreSQL of its own, for tests that kill it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OWNER = "postgres"


def find_binaries() -> Path | None:
    """The newest server on this machine: on the path, or where Debian keeps it."""
    onpath = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return Path(onpath).resolve().parent if onpath else found[-1].parent if found else None


@contextmanager
def running_postgres(*databases: str) -> Iterator[Postgres]:
    """A server with these databases, gone at the end; the test is skipped where there is none to start."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: neither initdb on PATH nor /usr/lib/postgresql/*/bin")
    server = Postgres(binaries)
    try:
        server.start()
        for name in databases:
            server.create_database(name)
        yield server
    finally:
        server.remove()


class Postgres:
    """A cluster in a directory of its own; root hands it to the user `postgres`, as the server insists."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self._identity = {"user": OWNER} if os.geteuid() == 0 else {}
        self.directory = Path(tempfile.mkdtemp(prefix="gradcast-postgres-"))
        if self._identity:
            shutil.chown(self.directory, OWNER)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", "data", "-U", "gradcast", "-A", "trust", "-E", "UTF8", "--no-sync")

    def uri(self, database: str = "postgres", driver: str = "postgresql+psycopg2") -> str:
        """Address of a database."""
        return f"{driver}://gradcast@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> None:
        """Make one."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "gradcast", name)

    def start(self) -> None:
        """Start if it does not run, and wait until it answers."""
        if self._process is not None and self._process.poll() is None:
            return
        # Nothing here outlives the machine; what is tested is the death of the server.
        options = ["-p", str(self.port), "-k", str(self.directory), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        deadline = time.monotonic() + 60
        while True:
            with (self.directory / "log.txt").open("ab") as log:
                self._process = subprocess.Popen(
                    [self.binaries / "postgres", "-D", "data", *options], cwd=self.directory, stdout=log, stderr=log,
                    start_new_session=True, **self._identity,
                )  # fmt: skip
            while self._process.poll() is None:
                if self._answers():
                    return
                assert time.monotonic() < deadline, (self.directory / "log.txt").read_text()
                time.sleep(0.05)
            assert time.monotonic() < deadline, (self.directory / "log.txt").read_text()
            time.sleep(0.1)  # the children of the killed one are not all gone yet

    def stop(self, number: signal.Signals) -> None:
        """Send its first process a signal, and wait for that to end; SIGQUIT is what `pg_ctl restart -m immediate` sends."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Leave nothing."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def dump(self, database: str) -> str:
        """Everything that a database holds, as text."""
        return self._run("pg_dump", "-h", "127.0.0.1", "-p", str(self.port), "-U", "gradcast", database)

    def _answers(self) -> bool:
        command = [self.binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *words: str) -> str:
        ended = subprocess.run(
            [self.binaries / program, *words], cwd=self.directory, capture_output=True, text=True, check=False, **self._identity
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout
