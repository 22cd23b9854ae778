"""The whole pipeline on small data: resumable to the bit, stoppable, truthful about what it was given."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models.bundle import load_bundle
from training import pipeline
from training.checkpoint import BEST, LAST, read_checkpoint
from training.config import TrainingConfig, load_config
from training.errors import CheckpointError, NumericalError
from training.loop import FitInterruptedError
from training.reporting import read_verdict
from training.run_directory import RunDirectory
from training.tracking.tracker import _NoopTracker

ARCHITECTURES = ("linear", "rnn", "gru", "lstm", "segrnn", "dilated_lstm")


def write_series(path: Path, num_series: int = 3, num_rows: int = 240, seed: int = 0) -> Path:
    """Daily waves in hourly rows, with noise, a level of their own, and a gap."""
    random = np.random.default_rng(seed)
    frames = []
    for number in range(num_series):
        hours = np.arange(num_rows)
        y = 10 * (number + 1) + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * random.standard_normal(num_rows)
        ds = pd.date_range("2024-01-01", periods=num_rows, freq="h")
        frames.append(pd.DataFrame({"unique_id": f"s{number}", "ds": ds, "y": y}).drop(index=[50, 51]))
    pd.concat(frames).to_csv(path, index=False)
    return path


def config_for(path: Path, *overrides: str) -> TrainingConfig:
    """A fit of seconds."""
    small = (
        "model.hidden_size=8",
        "model.context_length=24",
        "model.horizon=6",
        "fit.max_steps=60",
        "fit.val_check_steps=20",
        "fit.batch_size=16",
    )
    return load_config(None, [f"data.path={path}", *small, *overrides])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data file, in a directory of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    return write_series(tmp_path / "waves.csv")


class StopAt:
    """Ask for a stop after some steps."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    """Network tensors of a checkpoint."""
    tensors, _ = read_checkpoint(run / "checkpoints" / name)
    return tensors


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_leaves_a_bundle_that_forecasts_like_the_trained_network(data: Path, architecture: str) -> None:
    """Same numbers to the bit, and everything promised is on disk."""
    result = pipeline.train(config_for(data, f"model.architecture={architecture}"), output=Path("run"))
    bundle = load_bundle(Path("run/bundle"))
    store = result.prepared.store
    inputs = store.gather(torch.tensor([0, 1]), torch.tensor([100, 240])).inputs
    with torch.no_grad():
        assert torch.equal(bundle.forecaster(inputs), result.prepared.forecaster(inputs))
    for name in ("config.yaml", "run.json", "gradients/readings.parquet", "backtest/val.parquet", "figures/losses.png"):
        assert (Path("run") / name).stat().st_size > 0
    document = json.loads(json.dumps(result.to_dict()))
    assert document["metrics"]["val/mae"] > 0
    assert set(document["baselines"]) == {"naive", "seasonal_naive", "linear"}
    assert document["timing"]["steps"] == 60


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "rmsprop"])
@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(data: Path, optimizer: str, schedule: str) -> None:
    """Weights, optimizer, random draws and dropout go on where they were."""
    config = config_for(data, f"optimizer.name={optimizer}", f"optimizer.schedule={schedule}", "model.dropout=0.2")
    whole = pipeline.train(config, output=Path("whole"))
    with pytest.raises(FitInterruptedError):
        pipeline.train(config, output=Path("halves"), stop_requested=StopAt(33))
    run = RunDirectory.open(Path("halves"))
    assert run.state()["status"] == "stopped"
    resumed = pipeline.train(run.config(), resume=run)
    for name in (LAST, BEST):
        expected, actual = weights(Path("whole"), name), weights(Path("halves"), name)
        assert expected.keys() == actual.keys()
        for key, tensor in expected.items():
            assert torch.equal(actual[key], tensor), key
    assert resumed.to_dict()["metrics"] == whole.to_dict()["metrics"]
    assert resumed.state.readings.series("loss/val") == whole.state.readings.series("loss/val")


def test_a_stop_while_the_network_is_chosen_says_no_choice_and_leaves_no_run(data: Path) -> None:
    """A comparison that was cut short has found nothing."""
    said: list[str] = []
    config = load_config(None, [f"data.path={data}", "model.horizon=6", "fit.max_steps=60"])
    with pytest.raises(FitInterruptedError):
        pipeline.train(config, output=Path("run"), stop_requested=StopAt(5), say=said.append)
    assert said == []
    assert not Path("run").exists()


def test_killed_with_9_in_mid_fit_and_resumed_equals_uninterrupted(data: Path) -> None:
    """From the command line, as a crash would do it."""
    arguments = [
        "--data",
        str(data),
        "--no-register",
        "--quiet",
        "--set",
        "model.hidden_size=8",
        "--context-length",
        "24",
    ]
    arguments += [
        "--horizon",
        "6",
        "--max-steps",
        "600",
        "--set",
        "fit.val_check_steps=20",
        "--set",
        "fit.patience=null",
    ]
    command = [sys.executable, "-m", "training", "train"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*command, *arguments, "--output", "killed"], env=environment)
    deadline = time.monotonic() + 60
    while not Path("killed/checkpoints/last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    interrupted_at = read_checkpoint(Path("killed/checkpoints") / LAST)[1]["step"]
    assert 0 < interrupted_at < 600
    subprocess.run([*command, *arguments, "--output", "whole"], env=environment, check=True)
    subprocess.run([*command, "--quiet", "--resume", "killed"], env=environment, check=True)
    expected, actual = weights(Path("whole"), LAST), weights(Path("killed"), LAST)
    for key, tensor in expected.items():
        assert torch.equal(actual[key], tensor), key


def test_a_non_finite_step_stops_before_the_update_and_names_its_place(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are those of the step before; the sentence has step, layer, series and row."""
    config = config_for(data, "fit.max_steps=20")
    prepared = pipeline.prepare(config)
    run = RunDirectory.create(prepared.config, Path("run"))
    fit, _ = pipeline.build_fit(prepared, run, pipeline.NOOP_TRACKER, pipeline.SILENT_PROGRESS)
    gather = prepared.store.gather

    def poisoned(series: torch.Tensor, cutoff: torch.Tensor) -> object:
        batch = gather(series, cutoff)
        if fit.state.step == 7:
            batch.inputs.context[3, 5] = math.inf
            batch.inputs.observed_mask[3, 5] = True
            fit.poisoned = (prepared.panel.ids[int(series[3])], int(cutoff[3]))  # type: ignore[attr-defined]
            fit.before = {key: value.clone() for key, value in prepared.forecaster.state_dict().items()}  # type: ignore[attr-defined]
        return batch

    monkeypatch.setattr(prepared.store, "gather", poisoned)
    with pytest.raises(NumericalError) as caught:
        fit.run()
    name, cutoff = fit.poisoned  # type: ignore[attr-defined]
    message = str(caught.value)
    assert "step 8" in message
    assert caught.value.step == 8
    assert "input" in message
    assert f"series {name!r} at row {cutoff}" in message
    for key, value in prepared.forecaster.state_dict().items():
        assert torch.equal(value, fit.before[key])  # type: ignore[attr-defined]


def test_a_rate_that_explodes_ends_in_a_numerical_error_not_in_nan(data: Path) -> None:
    """Plain SGD at a huge rate, no clipping, no scaling: refused at some step, tagged failed."""
    bad = (
        "optimizer.name=sgd",
        "optimizer.learning_rate=1e18",
        "fit.max_grad_norm=null",
        "model.scaler=none",
        "fit.loss=mse",
        "model.head=point",
    )
    with pytest.raises(NumericalError, match="step") as caught:
        pipeline.train(config_for(data, *bad), output=Path("run"))
    finding = read_verdict(Path("run")).findings[0]
    assert (finding.rule, finding.step) == ("non_finite", caught.value.step)
    assert finding.remedies[0].set["optimizer.name"] == "adamw"
    assert finding.remedies[0].set["fit.max_grad_norm"] == 1.0
    assert RunDirectory.open(Path("run")).state()["status"] == "failed"


def test_the_test_part_is_never_seen_in_training(data: Path) -> None:
    """Changing test rows changes no weight and no validation loss."""
    config = config_for(data, "data.test_size=24", "fit.max_steps=20")
    first = pipeline.train(config, output=Path("first"))
    frame = pd.read_csv(data)
    tail = frame.groupby("unique_id").tail(24).index
    frame.loc[tail, "y"] = frame.loc[tail, "y"] * -3 + 1000
    frame.to_csv(data, index=False)
    second = pipeline.train(config, output=Path("second"))
    assert first.state.readings.series("loss/val") == second.state.readings.series("loss/val")
    for key, tensor in weights(Path("first"), BEST).items():
        assert torch.equal(weights(Path("second"), BEST)[key], tensor)
    assert first.to_dict()["metrics"]["test/mae"] != second.to_dict()["metrics"]["test/mae"]


def test_a_second_fit_in_one_process_equals_the_first(data: Path) -> None:
    """Seeds hold; nothing of the first fit leaks into the second."""
    config = config_for(data, "model.dropout=0.3")
    first = pipeline.train(config, output=Path("first"))
    second = pipeline.train(config, output=Path("second"))
    assert first.state.readings.series("loss/train") == second.state.readings.series("loss/train")


def test_truncated_backpropagation_trains_with_the_same_values_and_other_gradients(data: Path) -> None:
    """The first loss is equal; the recurrent gradient is not."""
    alone = ("fit.max_steps=20", "model.skip=none")
    whole = pipeline.train(config_for(data, *alone), output=Path("whole"))
    cut = pipeline.train(config_for(data, *alone, "fit.tbptt_steps=4"), output=Path("cut"))
    first = [result.state.readings.series("loss/train")[1][0] for result in (whole, cut)]
    norms = [result.state.readings.series("grad_norm/lstm.0.weight_hh")[1][0] for result in (whole, cut)]
    assert first[0] == pytest.approx(first[1], rel=1e-6)
    assert norms[0] != pytest.approx(norms[1], rel=1e-3)


def test_early_stopping_keeps_the_weights_before_the_rise(data: Path) -> None:
    """The fit stops when patience is used up, and what it keeps is from before the first clear rise."""
    config = config_for(
        data, "fit.max_steps=400", "fit.patience=1", "optimizer.learning_rate=0.05", "optimizer.schedule=constant"
    )
    result = pipeline.train(config, output=Path("run"))
    steps, losses = result.state.readings.series("loss/val")
    assert result.state.best_step < result.state.step < 400
    assert losses[steps.index(result.state.best_step)] == result.state.best_val_loss < losses[-1]


def test_an_existing_run_is_not_overwritten(data: Path) -> None:
    """The message names --resume."""
    config = config_for(data, "fit.max_steps=1")
    pipeline.train(config, output=Path("run"))
    with pytest.raises(CheckpointError, match="--resume run"):
        pipeline.train(config, output=Path("run"))


class RecordingTracker(_NoopTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[int]] = {}
        self.note = ""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name in metrics:
            self.metrics.setdefault(name, []).append(step)

    def log_note(self, markdown: str) -> None:
        self.note = markdown


def test_the_dashboard_gets_the_names_of_the_contract_and_not_many_more(data: Path) -> None:
    """Norms per layer, matrix and gate; reach and states; one error per baseline; at most 70 keys in all."""
    tracker = RecordingTracker()
    config = config_for(data, "data.test_size=24", "model.initialization=forget_bias")
    pipeline.train(config, tracker=tracker, output=Path("run"))
    names = set(tracker.metrics)
    gates = {f"grad_norm/lstm.0.weight_hh.{gate}" for gate in ("input", "forget", "cell", "output")}
    layers = {f"{kind}/{layer}" for kind in ("grad_norm", "update_ratio") for layer in ("lstm.0", "decoder", "head")}
    assert names >= gates | layers | {
        "loss/train",
        "loss/val",
        "val/mae",
        "val/coverage_80",
        "test/mase",
        "grad_clip/fraction",
    }
    baselines = {f"baseline/{name}/mae" for name in ("naive", "seasonal_naive", "linear")}
    assert {name for name in names if name.startswith("baseline/")} == baselines
    assert {"grad_reach/lstm.0", "grad_reach/ratio_at_need", "gate/lstm.0.forget.saturated"} <= names
    assert {"state/lstm.0.saturated", "state/decoder.dead"} <= names
    assert len(names) <= 70
    assert all(len(steps) == len(set(steps)) for steps in tracker.metrics.values()), "no point is logged twice"
    assert "The gradient reaches 24 steps back" in tracker.note
