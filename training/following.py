"""What the processes of a team do that do not lead it: prepare what the leader prepared, and fit it with the leader."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.config import TrainingConfig, build_config
from training.errors import DataError, NumericalError, Problem
from training.final_fit import fit_on_all_rows
from training.gradients.schedule import never
from training.loop import Fit, FitInterruptedError
from training.losses import build_loss
from training.preparation import Prepared, build_fit_data, prepare
from training.progress import SILENT_PROGRESS
from training.run_directory import RunDirectory
from training.team import Team
from training.tracking.tracker import NOOP_TRACKER


def send_assignment(team: Team, prepared: Prepared) -> None:
    """Tell the followers what to fit next: the configuration without nulls, how its data was read, and which data that is."""
    document = {
        "config": prepared.config.model_dump(mode="json", by_alias=True),
        "left_open": prepared.left_open,
        "fingerprint": prepared.panel.fingerprint,
    }
    team.broadcast(json.dumps(document).encode())


@contextmanager
def releasing(team: Team) -> Iterator[None]:
    """Tell the followers that nothing is left to do once the leader is done or was stopped; of an error they learn otherwise."""
    try:
        yield
    except FitInterruptedError:
        _release(team)
        raise
    _release(team)


def _release(team: Team) -> None:
    if team.is_leader:
        team.broadcast(b"")


def follow(team: Team) -> None:
    """Fit whatever the leader says, until it says that nothing is left.

    Raises:
        GradcastError: If this machine lacks what the leader's fit needs.
        WorkerLostError: If a process is gone, the leader included.
    """
    while assignment := team.broadcast():
        document = json.loads(assignment)
        try:
            _fit_along(team, build_config(document["config"]), document["left_open"], document["fingerprint"])
        except (NumericalError, FitInterruptedError):
            continue  # the same in every process; the leader deals with it


def _fit_along(team: Team, config: TrainingConfig, left_open: list[str], fingerprint: str) -> None:
    unmeasured = config.gradients.model_copy(update={"preset": "off"})
    prepared = prepare(config.model_copy(update={"gradients": unmeasured}), left_open=left_open)
    if prepared.panel.fingerprint != fingerprint:
        message = f"must be the leader's, but worker {team.rank} reads another file."
        raise DataError([Problem("data_differs", str(config.data.path), message, "Bring the same file to every machine.")])
    data = build_fit_data(prepared)
    loss = build_loss(config.fit.loss, prepared.forecaster.config.output_levels, config.model.head)
    with tempfile.TemporaryDirectory(prefix="gradcast-worker-") as place:
        run = RunDirectory(Path(place))
        fit = Fit(
            prepared.forecaster, data, loss, config.fit, config.optimizer, never, run.checkpoints, NOOP_TRACKER,
            SILENT_PROGRESS, keep_start=config.fit.warm_start is not None, team=team,
        )  # fmt: skip
        state = fit.run()
        if config.fit.final:
            fit_on_all_rows(prepared, state, data.validation, loss, run, SILENT_PROGRESS, team)
