"""A study in PostgreSQL, shared by processes that know nothing but its address, as on several machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from tests.faults.postgres import running_postgres
from training.tuning.storage import open_storage
from training.tuning.study import OUTCOME_KEY, counted_trials

NUM_TRIALS = 4
SMALL = (
    "data.season_length=12", "data.calendar=none", "model.horizon=4", "model.context_length=24", "model.hidden_size=8",
    "fit.max_steps=60", "fit.val_check_steps=20", "fit.batch_size=16",
)  # fmt: skip
# Each has a folder of its own: machines share the database, not the disk.
PROGRAM = """
import sys
from pathlib import Path
from training.config import load_config
from training.progress import SILENT_PROGRESS
from training.tracking.tracker import NOOP_TRACKER
from training.tuning.search import Budget
from training.tuning.session import Request, tune
from training.tuning.space import parse_space
storage, trials, *settings = sys.argv[1:]
space = parse_space({"optimizer.learning_rate": {"low": 0.003, "high": 0.03, "log": True}})
request = Request(load_config(None, settings), space, "shared", storage, Budget(int(trials)), heartbeat_seconds=1)
tune(request, lambda _config: NOOP_TRACKER, SILENT_PROGRESS, lambda s: print(s, flush=True), lambda: False)
"""


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """The address of a database that both see."""
    with running_postgres("studies") as server:
        yield server.uri("studies")


def start_machine(folder: Path, data: Path, storage: str) -> subprocess.Popen[str]:
    """`gradcast tune` on a machine: a folder of its own."""
    folder.mkdir()
    repository = Path(__file__).parents[2]
    settings = [f"data.path={data}", *SMALL]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, storage, str(NUM_TRIALS), *settings], stdout=subprocess.PIPE, text=True, cwd=folder,
        env=os.environ | {"PYTHONPATH": str(repository)},
    )  # fmt: skip


def test_machines_share_a_study_and_a_killed_one_loses_only_its_trial(storage: str, tmp_path: Path) -> None:
    """Of two processes one dies -9 in mid-trial: no number and no setting twice, its trial alone is lost, its settings are tried
    once more, and the other one brings the study to its budget.
    """
    hours = np.arange(600)
    y = 10 + 3 * np.sin(2 * np.pi * hours / 12) + 0.1 * np.random.default_rng(0).standard_normal(len(hours))
    pd.DataFrame({"unique_id": "a", "ds": hours, "y": y}).to_csv(tmp_path / "wave.csv", index=False)
    killed = start_machine(tmp_path / "one", tmp_path / "wave.csv", storage)
    assert killed.stdout is not None
    while not next(killed.stdout, "").startswith("trial 0"):
        assert killed.poll() is None
    study = optuna.load_study(study_name="shared", storage=open_storage(storage))
    deadline = time.monotonic() + 60
    while not (running := study.get_trials(states=[TrialState.RUNNING])) or not running[0].params:
        assert time.monotonic() < deadline
    # The second joins while the first one is in the middle of a trial.
    other = start_machine(tmp_path / "two", tmp_path / "wave.csv", storage)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    said = other.communicate(timeout=180)[0]
    assert other.returncode == 0, said
    trials = study.get_trials()
    lost = [trial for trial in trials if trial.state == TrialState.FAIL and OUTCOME_KEY not in trial.user_attrs]
    finished = [trial for trial in trials if OUTCOME_KEY in trial.user_attrs]
    assert len(lost) <= 1
    assert len(counted_trials(study)) == NUM_TRIALS
    assert len({json.dumps(trial.params) for trial in finished}) == len(finished)
    told = [int(line.split()[1]) for line in said.splitlines() if line.startswith("trial ")]
    assert len(told) == len(set(told))
    assert 0 not in told
    for trial in lost:
        assert [again.params for again in trials if again.user_attrs.get("retry_of") == [trial.number]] == [trial.params]
