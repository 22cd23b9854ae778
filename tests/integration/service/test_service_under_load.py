"""Clients that leave, and versions that come, while others ask: over real connections."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from app.settings import ServiceSettings
from tests.integration.service.live_service import running
from tests.integration.service.service_bundles import series, write_bundle

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "serving"
BODY = json.dumps({"series": [series()]}).encode()
POLL_SECONDS = 0.2


@pytest.fixture(scope="module")
def load() -> Iterator[ModuleType]:
    """The benchmark's clients; forgotten again afterwards, with what their module put into the path."""
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        yield import_module("disturbances")
    finally:
        sys.path[:] = before
        sys.modules.pop("disturbances", None)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    write_bundle(tmp_path / "store" / "m" / "1")
    settings = ServiceSettings(
        bundle=tmp_path / "store", poll_seconds=POLL_SECONDS, open="always", job_workers=0, jobs_directory=tmp_path / "jobs",
        max_wait_seconds=30.0,
    )  # fmt: skip
    with running(settings) as address:
        yield address


@pytest.mark.network
def test_clients_that_leave_hurt_nobody(service: str, load: ModuleType) -> None:
    """A hundred clients leave in mid-request, half with a reset: every other request is answered, and no place stays taken."""
    account = asyncio.run(load.disconnect(load.Clients(f"{service}/forecast", BODY), 100))
    assert account.statuses[200] >= load.NUM_STEADY
    assert account.num_failed == 0
    assert httpx.get(f"{service}/readyz").json()["queue_windows"] == 0
    assert httpx.post(f"{service}/forecast", content=BODY).status_code == 200


@pytest.mark.network
def test_a_new_version_takes_over_under_load_within_a_poll_and_five_seconds(
    service: str, load: ModuleType, tmp_path: Path
) -> None:
    """While clients ask without a pause the alias moves: no request fails, and the new version answers in time."""
    write_bundle(tmp_path / "next", seed=7)
    clients = load.Clients(f"{service}/forecast", BODY)
    account, seconds = asyncio.run(
        load.renew(clients, lambda: os.replace(tmp_path / "next", tmp_path / "store" / "m" / "2"), 2, 30.0)
    )
    assert account.num_failed == 0
    assert list(account.versions) == [1, 2]
    assert seconds < POLL_SECONDS + 5.0
