"""The turns that were given, in a database that all workers share: SQLite, or PostgreSQL for several machines.

Who is next is decided where it is known, by a worker that has room. The database (DBOS) then gives this turn to that worker
and to no other, and keeps a row of it.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable

# Rows name this instead of a release: a job outlives an update of the program.
APPLICATION_VERSION = "1"
# A turn that was given, and whose job nobody is at after so long, has lost its worker.
LOST_SECONDS = 15.0
_ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


class Turns:
    """Starts what has got its turn, in a thread of its own.

    Args:
        url: Of the database.
        work: What a turn is for, by the id of its job; returns how it ended.
    """

    def __init__(self, url: str, work: Callable[[str], str]) -> None:
        # Two seconds of import that only this process pays.
        from dbos import DBOS

        from app.jobs.queue_format import JsonSerializer, refuse_pickles

        refuse_pickles()
        self._dbos = DBOS
        self._worker = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        DBOS(
            config={
                "name": "gradcast", "system_database_url": url, "executor_id": self._worker,
                "application_version": APPLICATION_VERSION, "enable_otlp": False, "log_level": "WARNING",
                "serializer": JsonSerializer(),
            }
        )  # fmt: skip

        # The name is in rows of earlier versions, too: what those had put into a queue comes here, and is not begun.
        @DBOS.workflow(name="train")
        def train(job_id: str) -> str:
            return work(job_id)

        self._train = train
        DBOS.launch()

    def begin(self, turn: str, job_id: str) -> bool:
        """Take a turn and begin its work; False if it belongs to another worker."""
        from dbos import SetWorkflowID

        row = self._dbos.get_workflow_status(turn)
        if row is not None:
            if row.status not in _ENDED and 0.0 <= _seconds_since(row.updated_at) < LOST_SECONDS:
                return False
            self._dbos.delete_workflow(turn)
        with SetWorkflowID(turn):
            self._dbos.start_workflow(self._train, job_id)
        row = self._dbos.get_workflow_status(turn)
        return row is not None and row.executor_id == self._worker

    def close(self, seconds: int) -> None:
        """Wait for what was begun, then let the database go."""
        self._dbos.destroy(workflow_completion_timeout_sec=seconds)


def _seconds_since(milliseconds: int | None) -> float:
    """Negative if a clock was set back since."""
    return time.time() - (milliseconds or 0) / 1000
