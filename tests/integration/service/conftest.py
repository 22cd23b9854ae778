"""The application around tiny bundles, without a registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.settings import ServiceSettings
from models.columns import Columns
from tests.integration.service.service_bundles import COLUMNS, TestClient, build_context, wait_ready, write_bundle


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles `plain` (no covariates) and `full` (every kind of covariate), both with context."""
    store = tmp_path_factory.mktemp("store")
    write_bundle(store / "plain" / "1", context=build_context(Columns()))
    write_bundle(store / "full" / "1", COLUMNS, seed=1, context=build_context(COLUMNS))
    return store


@pytest.fixture(scope="session")
def shared_upload(shared_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for jobs with one uploaded data set, audited once for all tests."""
    directory = tmp_path_factory.mktemp("upload")
    settings = ServiceSettings(bundle=shared_store, poll_seconds=1000.0, jobs_directory=directory, job_workers=0)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        rows = "".join(f"2026-01-{day:02d},{10 + day % 7}\n" for day in range(1, 32))
        assert client.post("/datasets", content=f"ds,y\n{rows}", params={"name": "sales.csv"}).status_code == 201
    return directory


@pytest.fixture
def uploaded(shared_upload: Path) -> Callable[[Path], str]:
    """Put that data set into another folder for jobs, and tell its id."""

    def copy(directory: Path) -> str:
        shutil.copytree(shared_upload / "datasets", directory / "datasets")
        return next((directory / "datasets").iterdir()).name

    return copy


@pytest.fixture
def launch() -> Iterator[Callable[..., TestClient]]:
    """Start the application on a directory of bundles, with settings; wait until it is ready."""
    with ExitStack() as stack:

        def start(store: Path, is_ready: bool = True, **settings: Any) -> TestClient:
            defaults = {"bundle": store, "poll_seconds": 1000.0, "models": ()}
            app = create_app(ServiceSettings(**{**defaults, **settings}))
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            if is_ready:
                wait_ready(client)
            return client

        yield start


@pytest.fixture(scope="session")
def client(shared_store: Path) -> Iterator[TestClient]:
    """One application for all tests that only ask."""
    app = create_app(ServiceSettings(bundle=shared_store, poll_seconds=1000.0, models=("plain", "full")))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_ready(client)
        yield client
