"""Workers of Ray Train do what one process does, and a lost one costs no more than the steps since the last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from training import pipeline
from training.checkpoint import LAST, read_checkpoint
from training.config import build_config, load_config
from training.run_directory import RunDirectory

pytestmark = [pytest.mark.network, pytest.mark.slow]
CHECK_STEPS, MAX_STEPS = 40, 400
PATIENCE_SECONDS = 900.0  # of a machine whose cores others use
# Five windows cannot be halved, so the two shares differ in size; double precision, so that 400 steps of another order of
# summation still agree.
SETTINGS = (
    "data.freq=h", "model.hidden_size=8", "model.context_length=24", "model.horizon=6", "model.initialization=torch",
    "optimizer.name=sgd", "optimizer.learning_rate=0.05", "optimizer.schedule=constant", "fit.batch_size=5",
    "fit.precision=float64", f"fit.max_steps={MAX_STEPS}", f"fit.val_check_steps={CHECK_STEPS}", "fit.patience=null",
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A daily wave with missing targets."""
    random, hours = np.random.default_rng(0), np.arange(240)
    y = 10 + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * random.standard_normal(240)
    frame = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=240, freq="h"), "y": y})
    frame.drop(index=random.choice(np.arange(1, 200), 60, replace=False)).to_csv(tmp_path / "wave.csv", index=False)
    return tmp_path / "wave.csv"


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "training", "train", "--launcher", "ray", *words]


def overrides(*settings: str) -> list[str]:
    return [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    environment |= {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(*words), cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def recorded(run: Path) -> list[dict[str, Any]]:
    """What the leader wrote down for whoever watches from outside."""
    path = run / "progress.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(fact: Callable[[], bool], process: subprocess.Popen[str], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes of Ray Train's workers below a command."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith("ray::RayTrainWorker"):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda child: child.pid)


def test_a_killed_worker_costs_no_more_than_the_steps_since_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    """The fit ends with the weights of one process, every point is in the tracker once, and there is one version."""
    process = start(tmp_path, "--data", data.name, "--workers", "2", "--output", "run", "--json", *overrides())
    wait_for(lambda: any(entry.get("step", 0) > 2 * CHECK_STEPS for entry in recorded(tmp_path / "run")), process)
    os.kill(workers_of(process)[-1].pid, signal.SIGKILL)
    out, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert json.loads(out)["timing"]["steps"] == MAX_STEPS
    assert "a new team goes on from the last checkpoint" in said

    entries = recorded(tmp_path / "run")
    starts = [index for index, entry in enumerate(entries) if "start" in entry]
    assert len(starts) == 2
    reached, again = entries[starts[1] - 1]["step"], entries[starts[1]]["start"]
    assert again % CHECK_STEPS == 0
    assert 2 * CHECK_STEPS <= again <= reached < again + CHECK_STEPS

    alone = load_config(None, [f"data.path={data}", *SETTINGS, "tracking.register=false"])
    pipeline.train(alone, output=tmp_path / "alone")
    one, two = (read_checkpoint(tmp_path / name / "checkpoints" / LAST)[0] for name in ("alone", "run"))
    for name in (name for name in one if name.startswith("network.")):
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=1e-9)

    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as store:
        points = store.execute("select step, count(*) from metrics where key = 'loss/val' group by step").fetchall()
        assert sorted(points) == [(step, 1) for step in range(CHECK_STEPS, MAX_STEPS + 1, CHECK_STEPS)]
        assert store.execute("select count(*) from model_versions").fetchone() == (1,)
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]
    written = {path.name for path in (tmp_path / "run" / "bundle").rglob("*")}
    assert not any("ray" in name for name in written)
    assert "ray" not in json.loads((tmp_path / "run" / "bundle" / "bundle.json").read_text()).get("versions", {})


def test_ctrl_c_stops_with_a_checkpoint_that_one_process_resumes(data: Path, tmp_path: Path) -> None:
    """Exit code 130, the way on in the last line, and nothing of Ray left behind."""
    process = start(tmp_path, "--data", data.name, "--workers", "2", "--min-workers", "1", "--output", "run", "--no-register",
                    *overrides("fit.max_steps=100000", "fit.val_check_steps=50000"))  # fmt: skip
    wait_for(lambda: any(entry.get("step", 0) > 20 for entry in recorded(tmp_path / "run")), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "gradcast train: stopped; continue: gradcast train --resume run"
    run = RunDirectory.open(tmp_path / "run")
    assert run.state()["status"] == "stopped"
    assert not (tmp_path / "run" / "ray.mark").exists()
    step = read_checkpoint(run.checkpoints / LAST)[1]["step"]
    assert step > 20
    tree = run.config().model_dump(by_alias=True)
    tree["data"]["path"], tree["fit"]["max_steps"] = str(data), step + 5
    assert pipeline.train(build_config(tree), resume=run).state.step == step + 5
