"""The service as a process, for tests that kill it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx


class Site:
    """The service as a process, with everything it writes in one folder."""

    def __init__(self, folder: Path, tracking_uri: str | None = None) -> None:
        self.folder, self.tracking_uri = folder, tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.jobs = folder / "jobs" / "jobs"
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        environment = {
            **os.environ, "GRADCAST_PORT": str(self.port), "GRADCAST_JOBS_DIRECTORY": str(self.folder / "jobs"),
            "GRADCAST_TRACKING_URI": self.tracking_uri, "GRADCAST_POLL_SECONDS": "0.5",
            "GRADCAST_CACHE_DIRECTORY": str(self.folder / "cache"), "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }  # fmt: skip
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app"], env=environment, stdout=log, stderr=log, cwd=self.folder
            )
        wait_for(lambda: self.answers("/livez"))

    def end(self) -> None:
        """Leave no process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def answers(self, path: str) -> bool:
        try:
            return self.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30)

    def post(self, path: str, **content) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{self.port}{path}", timeout=120, **content)

    def processes(self) -> list[int]:
        """Worker and training of this site, by the directory they run in."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
                if (b"app.jobs" in words or b"--json\0--" in words) and (entry / "cwd").readlink() == self.folder:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.1)
