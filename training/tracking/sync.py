"""`gradcast sync`: sends what a run could not, and closes runs whose process is gone."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.tracking.environment import (
    default_spool_directory,
    normalize_uri,
    open_client,
    summarize,
    with_credentials,
)
from training.tracking.sender import Shipper, UnreachableError
from training.tracking.sink import HEARTBEAT_TAG, MlflowSink
from training.tracking.spool import Spool, list_spools

STALE_SECONDS = 15 * 60.0
MAX_RUNS_SHOWN = 20
SENDER_GRACE_SECONDS = 40.0


@dataclass(frozen=True)
class SyncedRun:
    """What `sync` did with one run.

    Attributes:
        spool: Name of its spool.
        run_id: The run in the store, once known.
        num_sent: Events sent now.
        num_unsent: Events still waiting.
        num_rejected: Events the server refuses for good; they stay in `rejected.jsonl` of the spool.
        state: `complete`, `closed` (its process was gone: marked KILLED), `running` (left alone) or `unreachable`.
        problem: Why something was left.
    """

    spool: str
    run_id: str | None
    num_sent: int
    num_unsent: int
    num_rejected: int
    state: str
    problem: str | None = None


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did.

    Attributes:
        runs: One entry per spool found.
        num_stale_closed: Runs of other machines closed because their heartbeat stopped.
    """

    runs: tuple[SyncedRun, ...]
    num_stale_closed: int = 0

    @property
    def num_sent(self) -> int:
        """Events sent now."""
        return sum(run.num_sent for run in self.runs)

    @property
    def num_unsent(self) -> int:
        """Events of ended runs that still wait."""
        return sum(run.num_unsent for run in self.runs if run.state != "running")

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON content."""
        totals = {"num_sent": self.num_sent, "num_unsent": self.num_unsent, "num_stale_closed": self.num_stale_closed}
        return {**totals, "runs": [asdict(run) for run in self.runs]}

    def to_text(self) -> str:
        """The report for a person."""
        if not self.runs:
            return "Nothing to send."
        lines = [
            f"{run.run_id or run.spool}: {run.state}, {run.num_sent} events sent"
            + (f", {run.num_unsent} waiting" if run.num_unsent else "")
            + (f", {run.num_rejected} refused" if run.num_rejected else "")
            + (f" ({run.problem})" if run.problem else "")
            for run in self.runs[:MAX_RUNS_SHOWN]
        ]
        if len(self.runs) > MAX_RUNS_SHOWN:
            lines.append(f"... and {len(self.runs) - MAX_RUNS_SHOWN} more")
        return "\n".join(lines)


def sync(spool_directory: Path | None = None, uri: str | None = None) -> SyncReport:
    """Send every spool that no living process owns; doing it twice changes nothing.

    Args:
        spool_directory: Where the spools are; None = that of the default store.
        uri: Store to send to; None = the one each run was started with.

    Returns:
        What was sent, what waits and why.

    Raises:
        ConfigurationError: If `uri` is none.
    """
    target = None if uri is None else normalize_uri(uri)
    directory = spool_directory or default_spool_directory(target)
    runs = tuple(run for path in list_spools(directory) if (run := _sync_spool(path, target)) is not None)
    return SyncReport(runs, close_stale_runs(target) if target is not None else 0)


def _sync_spool(path: Path, target: str | None) -> SyncedRun | None:
    spool = Spool(path)
    try:
        is_ours = spool.try_lock() and _wait_for_sender(spool)
    except FileNotFoundError:  # its sender has just finished and taken it away
        return None
    if not is_ours:
        spool.close()
        return SyncedRun(path.name, spool.progress.run_id, 0, _num_waiting(spool), 0, "running")
    try:
        num_events = spool.count_events()
        if num_events == 0:
            spool.remove()
            return None
        if spool.progress.is_finished and spool.progress.num_events >= num_events:
            return None  # kept only for its rejected events
        return _send(spool, target, num_events)
    finally:
        spool.close()


def _wait_for_sender(spool: Spool) -> bool:
    # The child of a killed process sends what is left by itself; that usually ends while we look.
    deadline = time.monotonic() + SENDER_GRACE_SECONDS
    while not spool.try_lock("sender.lock"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _send(spool: Spool, target: str | None, num_events: int) -> SyncedRun:
    already_sent = spool.progress.num_events
    state, problem = "complete", None
    try:
        uri = target or _recorded_uri(spool)
        sink = MlflowSink(uri, spool)
        Shipper(spool, sink).ship()
        if not spool.progress.is_finished:
            sink.close_abandoned("KILLED", _last_time_ms(spool))
            spool.acknowledge(is_finished=True)
            state = "closed"
    except UnreachableError as error:
        state, problem = "unreachable", str(error)
    except Exception as error:  # noqa: BLE001  one damaged spool must not keep the others from being sent
        state, problem = "unreachable", summarize(error)
    progress = spool.progress
    num_unsent = num_events - progress.num_events
    if num_unsent == 0 and progress.is_finished and progress.num_rejected == 0:
        spool.remove()
    num_sent = progress.num_events - already_sent
    return SyncedRun(spool.directory.name, progress.run_id, num_sent, num_unsent, progress.num_rejected, state, problem)


def _num_waiting(spool: Spool) -> int:
    return max(0, spool.count_events() - spool.progress.num_events)


def _recorded_uri(spool: Spool) -> str:
    for event in spool.read(0):
        if event.kind == "start":
            return normalize_uri(with_credentials(str(event.payload["uri"])))
    raise UnreachableError("the spool does not say where its run belongs; give the tracking URI")


def _last_time_ms(spool: Spool) -> int:
    return max((event.time_ms for event in spool.read(0)), default=time.time_ns() // 1_000_000)


def close_stale_runs(uri: str, stale_seconds: float = STALE_SECONDS) -> int:
    """Close the runs in a store whose heartbeat stopped; a run that is alive after all is set right by its own end.

    Args:
        uri: The store.
        stale_seconds: Silence after which a run counts as dead.

    Returns:
        Runs closed; 0 if the store does not answer.
    """
    now_ms = time.time_ns() // 1_000_000
    num_closed = 0
    try:
        client = open_client(normalize_uri(uri))
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        query = f"attributes.status = 'RUNNING' AND tags.`{HEARTBEAT_TAG}` LIKE '%'"
        for run in client.search_runs(experiments, query, max_results=1000):
            sign = run.data.tags.get(HEARTBEAT_TAG, "")
            if sign.isdigit() and now_ms - int(sign) > stale_seconds * 1000:
                client.set_terminated(run.info.run_id, "KILLED", int(sign))
                num_closed += 1
    except Exception:  # noqa: BLE001  tidying up is a courtesy
        return num_closed
    return num_closed


