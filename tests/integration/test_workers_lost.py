"""A fit whose process is killed ends, says so, and goes on from its last checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from training import pipeline
from training.checkpoint import LAST, read_checkpoint
from training.config import load_config
from training.errors import WorkerLostError
from training.launching import open_team
from training.run_directory import RunDirectory

pytestmark = pytest.mark.network


def test_a_killed_worker_ends_the_fit_and_its_checkpoint_resumes(tmp_path: Path) -> None:
    """Within moments, with the worker and the signal named; another number of workers goes on where it ended."""
    hours = np.arange(240)
    frame = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=240, freq="h"), "y": np.sin(2 * np.pi * hours / 24)})
    frame.to_csv(tmp_path / "wave.csv", index=False)
    small = ("model.hidden_size=8", "model.context_length=24", "model.horizon=6", "fit.max_steps=30",
             "fit.val_check_steps=10", "fit.patience=null", "gradients.preset=off", "tracking.register=false")  # fmt: skip
    config = load_config(None, [f"data.path={tmp_path / 'wave.csv'}", *small])
    steps = iter(range(1, 100))

    def kill_at_step_15() -> bool:
        if next(steps) == 15:
            children = psutil.Process().children()
            worker = next(child for child in children if "torchrun" in child.cmdline())
            os.kill(worker.pid, signal.SIGKILL)
        return False

    with pytest.raises(WorkerLostError, match=r"worker 1 .*signal 9.*--resume"), open_team(2) as team:
        pipeline.train(config, output=tmp_path / "run", stop_requested=kill_at_step_15, team=team)

    run = RunDirectory.open(tmp_path / "run")
    assert run.state()["status"] == "failed"
    assert read_checkpoint(run.checkpoints / LAST)[1]["step"] == 10
    assert pipeline.train(run.config(), resume=run).state.step == 30
