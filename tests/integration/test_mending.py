"""Faults end early or are mended: child runs below their parent, the better one kept, everything reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training import pipeline
from training.config import TrainingConfig, load_config
from training.errors import NumericalError
from training.gradients.conclusion import conclude
from training.gradients.evidence import Evidence
from training.gradients.readings import Readings
from training.gradients.verdict import Verdict
from training.mending import train_and_heal
from training.progress import SILENT_PROGRESS
from training.run_directory import RunDirectory
from training.tracking.tracker import NOOP_TRACKER


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wave with a little noise that any network learns at a usual rate."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    hours = np.arange(1200)
    y = 10 + 3 * np.sin(2 * np.pi * hours / 12) + 0.1 * random.standard_normal(len(hours))
    path = tmp_path / "wave.csv"
    pd.DataFrame({"unique_id": "a", "ds": hours, "y": y}).to_csv(path, index=False)
    return path


def config_for(path: Path, *overrides: str) -> TrainingConfig:
    """A fit of seconds."""
    small = (
        "model.hidden_size=16", "model.context_length=24", "model.horizon=4", "data.season_length=12",
        "data.calendar=none", "fit.max_steps=300", "fit.val_check_steps=30", "fit.batch_size=32",
    )  # fmt: skip
    return load_config(None, [f"data.path={path}", *small, *overrides])


def mend(config: TrainingConfig, output: str, said: list[str] | None = None) -> pipeline.TrainingResult:
    """Train and heal without a tracking store."""
    say = [].append if said is None else said.append
    return train_and_heal(config, NOOP_TRACKER, lambda _config: NOOP_TRACKER, SILENT_PROGRESS, say, Path(output))


def test_a_rate_too_low_is_named_and_mended_by_a_child_run_with_a_lower_validation_loss(data: Path) -> None:
    """The path: the run as asked for, then the child with the usual rate, which is kept and healthy."""
    said: list[str] = []
    result = mend(config_for(data, "optimizer.learning_rate=1e-7", "gradients.on_fault=heal"), "run", said)
    healing = result.healing
    assert healing is not None
    assert healing.is_healed
    first, kept = healing.attempts[0], healing.best
    assert first.verdict.verdict == "bad_learning_rate"
    assert kept.settings["optimizer.learning_rate"] == 5e-3
    assert kept.val_loss < 0.5 * first.val_loss
    assert result.verdict.verdict == "healthy"
    assert result.directory == Path("run/attempts") / str(healing.kept)
    assert result.to_dict()["healing"]["attempts"][0]["verdict"] == "bad_learning_rate"
    assert any("healing, attempt 1 of 4, against update_ratio" in sentence for sentence in said)
    state = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    assert state["healing"]["healed"] is True


def test_a_healthy_run_is_not_touched(data: Path) -> None:
    """No child runs, no healing in the report."""
    result = mend(config_for(data, "gradients.on_fault=heal", "optimizer.learning_rate=0.01"), "run")
    assert result.verdict.verdict == "healthy"
    assert result.healing is None
    assert not Path("run/attempts").exists()


def test_on_fault_stop_ends_a_hopeless_fit_before_its_budget(data: Path) -> None:
    """Two checks in a row beyond a third of the budget name the fault; the budget is not used up."""
    wasteful = config_for(data, "optimizer.learning_rate=1e-7", "fit.patience=null", "fit.max_steps=600")
    warned = pipeline.train(wasteful, output=Path("warned"))
    settings = wasteful.model_dump(by_alias=True)
    settings["gradients"]["on_fault"] = "stop"
    stopped = pipeline.train(TrainingConfig.model_validate(settings), output=Path("stopped"))
    assert warned.state.step == 600
    assert stopped.state.step < 600
    assert stopped.verdict.verdict == warned.verdict.verdict == "bad_learning_rate"


def test_watching_for_hopeless_fits_does_not_change_a_healthy_one(data: Path) -> None:
    """The weights of a run that is watched are those of one that is not, to the bit."""
    plain = pipeline.train(config_for(data, "optimizer.learning_rate=0.01"), output=Path("plain"))
    watched = pipeline.train(
        config_for(data, "optimizer.learning_rate=0.01", "gradients.on_fault=stop"), output=Path("watched")
    )
    for name, tensor in plain.prepared.forecaster.state_dict().items():
        assert tensor.equal(watched.prepared.forecaster.state_dict()[name]), name


def test_a_run_that_cannot_be_mended_fails_as_it_would_have(data: Path) -> None:
    """Non-finite with a budget that ends before any remedy helps: the first error is raised, nothing is hidden."""
    frame = pd.read_csv(data)
    frame.loc[300, "y"] = 1e38
    frame.to_csv(data, index=False)
    broken = config_for(
        data, "model.scaler=none", "fit.max_grad_norm=null", "optimizer.name=sgd", "optimizer.learning_rate=3.0",
        "gradients.on_fault=heal", "gradients.heal_attempts=1",
    )  # fmt: skip
    with pytest.raises(NumericalError):
        mend(broken, "run")
    state = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    assert state["healing"]["attempts"][0]["verdict"] == "non_finite"


def test_the_verdict_can_be_drawn_again_from_what_a_run_leaves_behind(data: Path) -> None:
    """Readings and evidence on disk are all the rules need."""
    result = pipeline.train(config_for(data, "optimizer.learning_rate=1e-7"), output=Path("run"))
    folder = RunDirectory(Path("run")).path / "gradients"
    evidence = Evidence.model_validate_json((folder / "evidence.json").read_text(encoding="utf-8"))
    verdict = Verdict.model_validate_json((folder / "verdict.json").read_text(encoding="utf-8"))
    assert conclude(evidence, Readings.read_parquet(folder / "readings.parquet")) == verdict == result.verdict
