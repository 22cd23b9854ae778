"""The database of the studies: where it is, opened so that no two processes are ever given the same trial."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from training.config import TrackingConfig
from training.errors import ConfigurationError, Problem, StudyError
from training.tracking.environment import redact, resolve_uri, sqlite_path

STORAGE_VARIABLE = "GRADCAST_STUDY_STORAGE"
LOCAL_STORAGE = "sqlite:///mlruns/studies.db"
# MLflow and Optuna both keep the version of their tables in a table `alembic_version`: each needs a schema of its own.
POSTGRES_SCHEMA = "gradcast_studies"
# A process that has not been heard of for three beats is dead.
HEARTBEAT_SECONDS, BEATS = 20, 3
# A trial that took its process with it is tried once more, by whoever asks next.
MAX_RETRIES = 1
SQLITE_WAIT_SECONDS = 60
# Two processes that create the tables at the same moment disturb each other once.
CREATION_ATTEMPTS = 5


def resolve_storage(given: str | None, tracking: TrackingConfig) -> str:
    """Where studies are kept.

    Args:
        given: URL as the user wrote it; None = `GRADCAST_STUDY_STORAGE`, else by the tracking store: a file beside a
            sqlite store, a schema of its own in a PostgreSQL store, a local file where runs go to a server.
        tracking: Where runs are kept.

    Returns:
        A database URL; sqlite paths are absolute.

    Raises:
        ConfigurationError: If it is not the URL of a database that can hold studies.
    """
    uri = resolve_uri(tracking)
    own = sqlite_path(uri)
    url = given or os.environ.get(STORAGE_VARIABLE)
    if url is None and own is not None:
        return f"sqlite:///{own.parent / 'studies.db'}"
    url = url or (uri if uri.startswith("postgresql") else LOCAL_STORAGE)
    if not url.startswith(("sqlite:///", "postgresql")):
        message = f"must be sqlite:///FILE or postgresql://..., but is {redact(url)[:80]!r} instead."
        raise ConfigurationError([Problem("study_storage_invalid", "--storage", message)])
    path = sqlite_path(url)
    if path is not None and path == own:
        message = "must be another file than MLflow's: both keep the version of their tables under the same name."
        remedy = f"Leave it out: studies then go to {path.parent / 'studies.db'}."
        raise ConfigurationError([Problem("study_storage_invalid", "--storage", message, remedy)])
    return url if path is None else f"sqlite:///{path}"


def open_storage(url: str, heartbeat_seconds: int = HEARTBEAT_SECONDS) -> RDBStorage:
    """Open the database, creating file, schema and tables where they are not there.

    Args:
        url: From `resolve_storage`.
        heartbeat_seconds: A running trial says so this often; after three times as long it is lost.

    Raises:
        StudyError: If the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    for attempt in range(1, CREATION_ATTEMPTS + 1):
        try:
            return _connect(url, heartbeat_seconds)
        except (SQLAlchemyError, ImportError, RuntimeError, OSError, optuna.exceptions.StorageInternalError) as error:
            if attempt == CREATION_ATTEMPTS or isinstance(error, ImportError):
                summary = redact(str(error)).splitlines()[0][:200]
                remedy = f"Start it, or name another with --storage or {STORAGE_VARIABLE}."
                where = f"the study storage {redact(url)}"
                raise StudyError(where, "a database that answers", summary, remedy) from error
            time.sleep(0.2 * attempt)
    raise AssertionError


def _connect(url: str, heartbeat_seconds: int) -> RDBStorage:
    path = sqlite_path(url)
    if path is None:
        arguments = _own_schema(url)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments = {"timeout": SQLITE_WAIT_SECONDS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = RDBStorage(
            url, engine_kwargs={"connect_args": arguments}, heartbeat_interval=heartbeat_seconds,
            grace_period=BEATS * heartbeat_seconds, heartbeat_stale_trial_callback=_try_again,
        )  # fmt: skip
    if path is not None:
        _write_one_at_a_time(storage.engine)
    return storage


def _own_schema(url: str) -> dict[str, Any]:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {POSTGRES_SCHEMA}"))
    finally:
        engine.dispose()
    return {"options": f"-csearch_path={POSTGRES_SCHEMA}"}


def _write_one_at_a_time(engine: Engine) -> None:
    """Make every transaction take sqlite's write lock at its beginning.

    sqlite knows no `SELECT ... FOR UPDATE`, on which Optuna relies: two processes could read "waiting" and both go on to
    run that trial, or count the trials and both take the same number.
    """

    @event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _lock(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()


def _try_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """The settings of a dead process's trial go back into the queue, once."""
    history = [*trial.user_attrs.get("retry_of", ()), trial.number]
    if len(history) <= MAX_RETRIES and trial.params:
        study.enqueue_trial(trial.params, user_attrs={"retry_of": history})
