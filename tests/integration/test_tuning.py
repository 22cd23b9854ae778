"""A search: shared by processes without a doubled trial, losing only what was killed, ending what is unhealthy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from training.cli import main
from training.config import build_config, load_config
from training.errors import ConfigurationError
from training.progress import SILENT_PROGRESS
from training.tracking.tracker import NOOP_TRACKER
from training.tuning.search import Budget, count_states
from training.tuning.session import Request, TuningResult, tune
from training.tuning.space import parse_space
from training.tuning.storage import open_storage
from training.tuning.study import LOST_KEY, OUTCOME_KEY, counted_trials

STORAGE = "sqlite:///studies.db"
SMALL = (
    "data.season_length=12", "data.calendar=none", "model.horizon=4", "model.context_length=24", "model.hidden_size=8",
    "fit.max_steps=60", "fit.val_check_steps=20", "fit.batch_size=16", "optimizer.learning_rate=0.01",
)  # fmt: skip
SPACE = {"optimizer.learning_rate": {"low": 0.003, "high": 0.03, "log": True}}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wave that any network learns, in a directory of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    hours = np.arange(600)
    y = 10 + 3 * np.sin(2 * np.pi * hours / 12) + 0.1 * np.random.default_rng(0).standard_normal(len(hours))
    path = tmp_path / "wave.csv"
    pd.DataFrame({"unique_id": "a", "ds": hours, "y": y}).to_csv(path, index=False)
    return path


def search(
    path: Path | None, *overrides: str, space: object = SPACE, trials: int = 3, study: str = "s",
    say: Callable[[str], object] = lambda _sentence: None, stop: Callable[[], bool] = lambda: False,
) -> TuningResult:  # fmt: skip
    """One process's share, without a tracking store; a dead process is noticed after three seconds."""
    config = load_config(None, [f"data.path={path}", *SMALL, *overrides] if path else [])
    wanted = parse_space(space) if isinstance(space, dict) else None
    request = Request(config, wanted, study, STORAGE, Budget(trials), heartbeat_seconds=1)
    return tune(request, lambda _config: NOOP_TRACKER, SILENT_PROGRESS, say, stop)


def start_process(data: Path, trials: int, *overrides: str) -> subprocess.Popen[str]:
    """`search` in a process of its own, which prints what it is told."""
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_tuning as t; "
        "t.search(Path(sys.argv[2]), *sys.argv[4:], trials=int(sys.argv[3]), say=lambda s: print(s, flush=True))"
    )
    here = Path(__file__)
    environment = os.environ | {"PYTHONPATH": str(here.parents[2])}
    command = [sys.executable, "-c", program, str(here.parent), str(data), str(trials), *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_share_a_study_without_a_doubled_trial(data: Path) -> None:
    """Exactly the budget is run, every number by one of the two, no settings twice, and both have worked."""
    processes = [start_process(data, 8), start_process(data, 8)]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    shares = [{int(line.split()[1]) for line in text.splitlines() if line.startswith("trial ")} for text in said]
    assert shares[0].isdisjoint(shares[1])
    assert shares[0]
    assert shares[1]
    study = optuna.load_study(study_name="s", storage=open_storage(STORAGE))
    counted = counted_trials(study)
    assert {trial.number for trial in counted} == shares[0] | shares[1]
    assert len(counted) == 8
    assert len({json.dumps(trial.params) for trial in counted}) == 8


def test_a_killed_process_loses_only_its_trial_which_another_runs_again(data: Path) -> None:
    """kill -9 in mid-trial: what was finished stays, the lost trial's settings are tried once more, the budget is met."""
    process = start_process(data, 4, "fit.max_steps=600", "fit.patience=null")
    assert process.stdout is not None
    while not next(process.stdout, "").startswith("trial 0"):
        assert process.poll() is None
    study = optuna.load_study(study_name="s", storage=open_storage(STORAGE))
    deadline = time.monotonic() + 30
    while not (running := study.get_trials(states=[optuna.trial.TrialState.RUNNING])) or not running[0].params:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(3.5)
    result = search(None)
    first, lost = result.study.trials[0], result.study.trials[running[0].number]
    assert first.user_attrs[OUTCOME_KEY]["directory"].endswith("trial-0")
    assert lost.state == optuna.trial.TrialState.FAIL
    assert LOST_KEY not in lost.user_attrs
    again = next(trial for trial in result.study.trials if trial.user_attrs.get("retry_of") == [lost.number])
    assert again.params == lost.params
    assert again.user_attrs[OUTCOME_KEY]["state"] != "lost"
    counts = count_states(result.study)
    assert counts.pop("lost") == 1
    assert sum(counts.values()) == 3


def test_a_known_bad_configuration_is_pruned_by_its_gradient_verdict(data: Path) -> None:
    """Plain SGD at 3.0 without clipping is ended long before its budget, by name; the usual rate wins."""
    bad = ("optimizer.name=sgd", "fit.max_grad_norm=null", "fit.max_steps=400", "fit.patience=null")
    result = search(data, *bad, space={"optimizer.learning_rate": [3.0, 0.03]}, trials=2)
    by_rate = {trial.params["optimizer.learning_rate"]: trial.user_attrs[OUTCOME_KEY] for trial in result.study.trials[:2]}
    assert by_rate[3.0]["state"] == "pruned_by_verdict"
    assert by_rate[3.0]["verdict"] in ("bad_learning_rate", "diverged", "exploding", "dead", "saturated", "non_finite")
    assert by_rate[3.0]["step"] < 300
    assert result.study.trials[0].state == optuna.trial.TrialState.PRUNED


def test_a_space_that_is_used_up_ends_the_search(data: Path) -> None:
    """Two choices are two trials, whatever the budget; the first is the configuration's own."""
    said: list[str] = []
    result = search(data, space={"optimizer.learning_rate": [0.02, 0.01]}, trials=50, say=said.append)
    assert result.status == "exhausted"
    assert [trial.params["optimizer.learning_rate"] for trial in counted_trials(result.study)] == [0.01, 0.02]
    assert any(sentence.startswith("the space is used up: it repeats trial") for sentence in said)


def test_a_study_is_not_joined_for_another_search(data: Path) -> None:
    """The same name with another configuration is refused, and says what differs."""
    search(data, trials=1)
    with pytest.raises(ConfigurationError, match=r"differs in model\.num_layers"):
        search(data, "model.num_layers=2", trials=1)


def test_the_winner_trains_again_to_the_same_error_and_nests_below_the_study(data: Path) -> None:
    """In MLflow: a run of the study with its report, below it the trials and the winner, which is registered."""
    from mlflow.tracking import MlflowClient

    from training.tracking.mlflow_tracker import MlflowTracker

    store = "sqlite:///mlruns/mlflow.db"
    config = load_config(None, [f"data.path={data}", *SMALL, "fit.max_steps=200", "optimizer.learning_rate=0.02"])
    space = parse_space({"model.hidden_size": [8, 12]})
    request = Request(config, space, "s", STORAGE, Budget(2), register=True, heartbeat_seconds=1)
    result = tune(request, lambda _config: MlflowTracker(store, in_process=True), SILENT_PROGRESS, print, lambda: False)
    document = json.loads(json.dumps(result.to_dict()))
    winner = document["winner"]
    assert load_config(Path(winner["config_path"])).model.hidden_size == winner["settings"]["model.hidden_size"]
    assert build_config(winner["config"]) == load_config(Path(winner["config_path"]))
    assert document["model"]["aliases"] == ["champion"]
    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("gradcast").experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == document["run_id"]]
    assert len(children) == 3
    trained = next(run for run in children if "tune.trial" not in run.data.tags)
    best = next(run for run in children if run.info.run_id == winner["run_id"])
    assert trained.data.metrics["val/mase"] == best.data.metrics["val/mase"] == winner["val_error"]
    assert best.data.params["model.hidden_size"] == str(winner["settings"]["model.hidden_size"])
    names = {Path(file.path).name for file in client.list_artifacts(document["run_id"], "study")}
    assert {"study.html", "history.png", "slices.png", "parallel.png", "winner.yaml", "trials.json"} <= names


def test_wrong_options_are_refused_together_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """No trial, no time, no name: three problems in one message, exit code 2."""
    assert main(["tune", "--data", "x.csv", "--trials", "0", "--seconds", "-1", "--study", "../x"]) == 2
    said = capsys.readouterr().err
    assert "has 3 problems" in said
    assert "--trials: must be at least 1, but is 0 instead." in said
