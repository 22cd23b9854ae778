"""A fit whose process is killed ends, says so, and goes on from its last checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from training import pipeline
from training.checkpoint import BEST, LAST, read_checkpoint
from training.config import load_config
from training.errors import WorkerLostError
from training.launching import open_team
from training.run_directory import RunDirectory

pytestmark = pytest.mark.network


SMALL = (
    "model.hidden_size=8", "model.context_length=24", "model.horizon=6", "fit.val_check_steps=10", "fit.patience=null",
    "gradients.preset=off", "tracking.register=false",
)  # fmt: skip


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    """A daily wave."""
    hours = np.arange(240)
    frame = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=240, freq="h"), "y": np.sin(2 * np.pi * hours / 24)})
    frame.to_csv(tmp_path / "wave.csv", index=False)
    return tmp_path / "wave.csv"


def worker_of(leader: psutil.Process) -> psutil.Process:
    return next(child for child in leader.children() if "torchrun" in child.cmdline())


def processor_seconds(process: psutil.Process, seconds: float) -> float:
    """How long it is busy in so many seconds."""
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system


@pytest.mark.parametrize("order", [(signal.SIGKILL,), (signal.SIGSTOP, signal.SIGKILL)], ids=["at work", "waited for"])
def test_a_killed_worker_ends_the_fit_and_its_checkpoint_resumes(
    wave: Path, tmp_path: Path, order: Sequence[signal.Signals]
) -> None:
    """Within moments, with the worker and the signal named; another number of workers goes on where it ended."""
    config = load_config(None, [f"data.path={wave}", "fit.max_steps=30", *SMALL])
    steps = iter(range(1, 100))

    def kill_at_step_15() -> bool:
        if next(steps) == 15:
            worker = worker_of(psutil.Process())
            for number, name in enumerate(order):  # the leader goes on to the next step, and waits for this worker's part
                threading.Timer(0.5 * number, os.kill, (worker.pid, name)).start()
        return False

    with pytest.raises(WorkerLostError, match=r"worker 1 .*signal 9.*--resume"), open_team(2) as team:
        pipeline.train(config, output=tmp_path / "run", stop_requested=kill_at_step_15, team=team)

    run = RunDirectory.open(tmp_path / "run")
    assert run.state()["status"] == "failed"
    assert read_checkpoint(run.checkpoints / LAST)[1]["step"] >= 10
    assert pipeline.train(run.config(), resume=run).state.step == 30


def test_a_worker_sleeps_while_its_leader_stays_away_and_ends_with_it(wave: Path, tmp_path: Path) -> None:
    """A stopped leader costs no processor; killed, it leaves no process behind, and memory without a name goes with them."""
    settings = [word for setting in (*SMALL, "fit.max_steps=1000000") for word in ("--set", setting)]
    command = [sys.executable, "-m", "training", "train", "--data", str(wave), "--workers", "2", "--quiet", *settings]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "--output", str(tmp_path / "run")], cwd=tmp_path, env=environment) as leader:
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "run" / "checkpoints" / BEST).exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            worker = worker_of(psutil.Process(leader.pid))
            leader.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            assert processor_seconds(worker, 1.0) < 0.3
        finally:
            leader.kill()
    _, alive = psutil.wait_procs([worker], timeout=30)
    assert not alive
