"""Several processes that fit one network do what one process does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from training import pipeline
from training.checkpoint import BEST, LAST, read_checkpoint
from training.config import TrainingConfig, load_config
from training.errors import ConfigurationError
from training.launching import join_team, open_team
from training.loop import FitInterruptedError
from training.run_directory import RunDirectory
from training.team import ALONE, ProcessTeam, Team
from training.tracking.tracker import _NoopTracker

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all processes keep their memory maps."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(place))
        yield place


@pytest.fixture(scope="module")
def team(cache: Path) -> Iterator[Team]:
    """Two processes, for all fits of this file."""
    with open_team(2) as pair:
        yield pair


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series of daily waves; in one, many targets are missing."""
    random, hours, frames = np.random.default_rng(0), np.arange(240), []
    for number in range(2):
        y = 10 * (number + 1) + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * random.standard_normal(240)
        ds = pd.date_range("2024-01-01", periods=240, freq="h")
        frame = pd.DataFrame({"unique_id": f"s{number}", "ds": ds, "y": y})
        frames.append(frame.drop(index=random.choice(np.arange(1, 200), 90, replace=False)) if number else frame)
    path = tmp_path_factory.mktemp("workers") / "waves.csv"
    pd.concat(frames).to_csv(path, index=False)
    return path


def config_for(data: Path, *overrides: str) -> TrainingConfig:
    """A fit of seconds; five windows cannot be halved, so the two shares differ in size."""
    small = (
        "data.freq=h", "model.hidden_size=8", "model.context_length=24", "model.horizon=6", "model.initialization=torch",
        "fit.batch_size=5", "fit.max_steps=12", "fit.val_check_steps=6", "fit.patience=null", "gradients.preset=off",
        "tracking.register=false",
    )  # fmt: skip
    return load_config(None, [f"data.path={data}", *small, *overrides])


def train(config: TrainingConfig, place: Path, team: Team = ALONE, **more: Any) -> pipeline.TrainingResult:
    return pipeline.train(config, output=place, team=team, **more)


def weights(place: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    tensors, _ = read_checkpoint(place / "checkpoints" / name)
    return {key: tensor for key, tensor in tensors.items() if key.startswith("network.")}


def test_two_processes_take_the_gradient_of_one(team: Team, data: Path, tmp_path: Path) -> None:
    """After one step of plain gradient descent at rate 1 the weights, and the norms on the way, agree to 1e-6."""
    one_step = ("optimizer.name=sgd", "optimizer.learning_rate=1", "optimizer.schedule=constant", "fit.max_steps=1",
                "fit.val_check_steps=1", "fit.max_grad_norm=null", "fit.precision=float64")  # fmt: skip
    config = config_for(data, *one_step)
    alone = train(config, tmp_path / "alone").state.readings
    together = train(config, tmp_path / "together", team).state.readings
    pairs = {key: (tensor, weights(tmp_path / "together")[key]) for key, tensor in weights(tmp_path / "alone").items()}
    for one, two in pairs.values():
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-9)
    for name in ("loss/train", "loss/val", "grad_norm/total", "grad_norm/lstm.0.weight_hh.forget"):
        assert together.last(name) == pytest.approx(alone.last(name), rel=1e-6)


def test_a_stopped_and_resumed_team_ends_with_the_weights_of_an_unstopped_one(
    team: Team, data: Path, tmp_path: Path
) -> None:
    """To the last bit, dropout included, though the checkpoint holds the leader's random state alone."""
    config = config_for(data, "model.dropout=0.3", "model.num_layers=2", "fit.final=true")
    train(config, tmp_path / "straight", team)
    asked = iter(range(1, 100))
    with pytest.raises(FitInterruptedError):
        train(config, tmp_path / "stopped", team, stop_requested=lambda: next(asked) >= 9)  # once before the fit
    run = RunDirectory.open(tmp_path / "stopped")
    assert read_checkpoint(run.checkpoints / LAST)[1]["step"] == 9  # the wish travels with the next gradient
    pipeline.train(run.config(), resume=run, team=team)
    for name in (LAST, BEST):
        straight, resumed = weights(tmp_path / "straight", name), weights(tmp_path / "stopped", name)
        assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    bundles = [tmp_path / place / "bundle" / "weights.safetensors" for place in ("straight", "stopped")]
    assert bundles[0].read_bytes() == bundles[1].read_bytes()


def test_what_a_team_writes_does_not_say_that_it_was_one(team: Team, data: Path, tmp_path: Path) -> None:
    """Configuration, checkpoint and bundle have the keys, and the bundle the fields, of a fit in one process."""
    config = config_for(data)
    train(config, tmp_path / "alone")
    train(config, tmp_path / "together", team)
    alone, together = (tmp_path / place for place in ("alone", "together"))
    assert (alone / "config.yaml").read_text() == (together / "config.yaml").read_text()
    documents = [json.loads((place / "bundle" / "bundle.json").read_text()) for place in (alone, together)]
    assert _keys(documents[0]) == _keys(documents[1])
    checkpoints = [read_checkpoint(place / "checkpoints" / LAST) for place in (alone, together)]
    assert checkpoints[0][0].keys() == checkpoints[1][0].keys()
    assert checkpoints[0][1].keys() == checkpoints[1][1].keys()


def test_one_process_writes_to_the_tracker(team: Team, data: Path, tmp_path: Path) -> None:
    """Every check's loss arrives once."""

    class Recorder(_NoopTracker):
        steps: list[int] = []  # noqa: RUF012  of this test alone

        def log_metrics(self, metrics: Any, step: int) -> None:
            self.steps.extend([step] * ("loss/val" in metrics))

    tracker = Recorder()
    train(config_for(data), tmp_path / "run", team, tracker=tracker)
    assert tracker.steps == [6, 12]


def test_the_memory_map_is_built_once(team: Team, cache: Path, data: Path, tmp_path: Path) -> None:
    """By the leader, though it reads before frequency and horizon are chosen and the others after; a resumed run finds it too."""
    (tmp_path / "rows").mkdir()
    pd.read_csv(data, parse_dates=["ds"]).to_parquet(tmp_path / "rows" / "part.parquet", index=False)
    settings = ("data.storage=map", "data.freq=null", "model.horizon=null", "fit.max_steps=6")
    train(config_for(tmp_path / "rows", *settings), tmp_path / "run", team)
    run = RunDirectory.open(tmp_path / "run")
    assert run.config().data.freq == "h"
    pipeline.train(run.config(), resume=run, team=team)
    assert len(list((cache / "gradcast" / "panels").glob("*/store.json"))) == 1


def test_a_batch_smaller_than_the_team_is_refused(team: Team, data: Path, tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(ConfigurationError, match="at least one window per worker"):
        train(config_for(data, "fit.batch_size=1"), tmp_path / "run", team)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_windows", [0, 1, 5, 64])
def test_shares_cover_a_batch_without_overlap(size: int, num_windows: int) -> None:
    """Every window is somebody's, and nobody else's; none has two windows more than another."""
    shares = [list(range(num_windows))[ProcessTeam(rank, size).share(num_windows)] for rank in range(size)]
    assert list(itertools.chain(*shares)) == list(range(num_windows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_torchrun_without_torchrun_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a hang."""
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigurationError, match="must be started by torchrun"), join_team():
        pass


def _keys(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _keys(value) for key, value in document.items()}
    return None
