"""A whole site on a real PostgreSQL, asked with a key: afterwards neither password nor key stands anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.access.keys import KeyStore
from app.access.scopes import Scope
from tests.e2e.service_site import Site, wait_for
from tests.faults.postgres import Postgres, running_postgres
from tests.security.test_planted_secrets import SECRET, holders

SETTINGS = {
    "model": {"horizon": 4, "context_length": 14, "hidden_size": 4, "initialization": "torch"},
    "fit": {"batch_size": 8, "max_steps": 30, "val_check_steps": 10, "patience": None},
    "gradients": {"preset": "off"},
}
# `gradcast tune` says so when every trial was pruned, as one of a few steps may be.
NO_TRIAL_WORTH_ITS_NAME = 4
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


class CommandLines(threading.Thread):
    """Watches the process list, and remembers every command line that shows one of the words."""

    def __init__(self, *words: str) -> None:
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self.num_looks = 0
        self._words = [word.encode() for word in words]
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(0.02):
            self.num_looks += 1
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = entry.read_bytes()
                except OSError:
                    continue
                if any(word in line for word in self._words):
                    self.seen.add(line.replace(b"\0", b" ").decode(errors="replace"))

    def stop(self) -> None:
        self._is_over.set()
        self.join()


@pytest.fixture
def database() -> Iterator[Postgres]:
    with running_postgres("runs", "queue") as server:
        yield server


def with_password(server: Postgres, name: str) -> str:
    """The server takes any password, so that one may stand in the address."""
    return server.uri(name).replace("gradcast@", f"gradcast:{SECRET}@")


def ask_everything(site: Site, data: bytes, key: str) -> list[str]:
    """An upload, a training, a forecast, every list, and requests that are refused; returns all answers."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{site.port}", headers=headers, timeout=60) as client:
        return [answer.text for answer in asked(client, data)]


def asked(client: httpx.Client, data: bytes) -> list[httpx.Response]:
    """The requests of `ask_everything`."""
    answers: list[httpx.Response] = []

    def keep(answer: httpx.Response) -> httpx.Response:
        answers.append(answer)
        return answer

    dataset = keep(client.post("/datasets", content=data, params={"name": "waves.csv"})).json()["id"]
    job = keep(client.post("/jobs", json={"dataset_id": dataset, "config": SETTINGS})).json()["id"]
    wait_for(lambda: keep(client.get(f"/jobs/{job}")).json()["state"] in ("succeeded", "failed"))
    assert answers[-1].json()["state"] == "succeeded", answers[-1].text
    series = {"unique_id": "x", "start": 0, "freq": 1, "y": [float(step % 7) for step in range(30)]}
    keep(client.post("/forecast", json={"series": [series]}))
    keep(client.get("/jobs", headers={"Authorization": f"Bearer gradcast_{SECRET}"}))
    keep(client.post("/jobs", json={"dataset_id": dataset, "config": {"tracking": {"uri": f"http://me:{SECRET}@x"}}}))
    lists = ("/models", "/jobs", "/datasets", "/readyz", "/metrics", "/")
    for path in (*lists, f"/datasets/{dataset}/preview", f"/runs/{job}/gradients"):
        keep(client.get(path))
    return answers


def command(folder: Path, address: str, *words: str) -> str:
    """What a command said; its store's address comes by the environment."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": address, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "training", *words], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode in (0, NO_TRIAL_WORTH_ITS_NAME), ended.stderr
    return ended.stdout + ended.stderr


def test_neither_password_nor_key_is_left_anywhere(tmp_path, waves, database, monkeypatch):
    """Served, trained, tuned, refused: in no answer, log, file, process list or database table is one of them to be found."""
    address = with_password(database, "runs")
    monkeypatch.setenv("GRADCAST_OPEN", "never")
    monkeypatch.setenv("GRADCAST_KEYS_DIRECTORY", str(tmp_path / "keys"))
    monkeypatch.setenv("GRADCAST_AUDIT", "all")
    monkeypatch.setenv("GRADCAST_QUEUE_URL", with_password(database, "queue").replace("+psycopg2", ""))
    _, key = KeyStore(tmp_path / "keys").create("planted", [Scope.ADMIN])
    watch = CommandLines(SECRET, key)
    watch.start()
    site = Site(tmp_path, tracking_uri=address)
    try:
        site.start()
        told = ask_everything(site, waves.read_bytes(), key)
    finally:
        site.end()
    flags = [word for setting in ("model.hidden_size=4", "model.context_length=14", "fit.val_check_steps=10", "fit.batch_size=8")
             for word in ("--set", setting)]  # fmt: skip
    small = ["--data", str(waves), "--horizon", "4", "--max-steps", "20", *flags]
    told.append(command(tmp_path, address, "train", *small, "--output", "run"))
    told.append(command(tmp_path, address, "tune", *small, "--trials", "1"))
    watch.stop()
    assert watch.num_looks > 100
    assert watch.seen == set()
    assert [text[:200] for text in told if SECRET in text or key in text] == []
    assert holders(tmp_path, SECRET) == []
    assert holders(tmp_path, key) == []
    for name in ("runs", "queue"):
        dump = database.dump(name)
        assert len(dump) > 1000
        assert SECRET not in dump
        assert key not in dump
