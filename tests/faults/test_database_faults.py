"""PostgreSQL is restarted and killed while runs are recorded in it and jobs are queued in it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults.postgres import Postgres, running_postgres
from tests.faults.recording import losses, record
from training.tracking.environment import open_client

NUM_STEPS = 200


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A running server with a tracking store in it."""
    with running_postgres("mlflow") as server:
        open_client(server.uri("mlflow")).search_experiments()
        yield server


@pytest.mark.parametrize(
    ("fault", "number"),
    [("PostgreSQL restarted under load", signal.SIGINT), ("kill -9 of PostgreSQL under load", signal.SIGKILL)],
)
def test_a_database_that_goes_away_under_load_loses_and_doubles_nothing(
    fault, number, postgres, tmp_path, small_bundle, ledger, moments
):
    """Gone at random moments while points stream in, and again while the model is registered: everything is there once."""
    gone_at = moments.sample(range(10, NUM_STEPS - 10), 2)
    back = 0.0

    def go_away(step: int) -> None:
        nonlocal back
        if step in gone_at:
            postgres.stop(number)
        elif step - 5 in gone_at:
            postgres.start()
            back = time.monotonic()
        time.sleep(0.004)

    def once_more() -> None:
        nonlocal back
        postgres.stop(number)
        time.sleep(0.3)
        postgres.start()
        back = time.monotonic()

    uri = postgres.uri("mlflow")
    name = record(uri, tmp_path / f"database-{number.name}", small_bundle, NUM_STEPS, go_away, once_more)
    ledger.record(fault, *losses(uri, name, NUM_STEPS), time.monotonic() - back)
