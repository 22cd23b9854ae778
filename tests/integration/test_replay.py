"""A fit that stops at a number that is none leaves a record, and the record alone repeats the step to the last bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from training import forensics, pipeline
from training.checkpoint import LAST, read_checkpoint
from training.cli import main
from training.config import TrainingConfig, load_config
from training.data.windows import TrainingWindows
from training.errors import ForensicsError, NumericalError
from training.forensics import BATCH, MANIFEST, WEIGHTS
from training.forensics_reader import read_forensics
from training.replay import ReplayResult, describe_replay, replay

EXTREME = 3e38


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three short series; the current directory is their own."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    hours = np.arange(240)
    frames = [
        pd.DataFrame(
            {
                "unique_id": f"s{number}",
                "ds": pd.date_range("2024-01-01", periods=240, freq="h"),
                "y": 10 * (number + 1) + 3 * np.sin(2 * np.pi * hours / 24) + 0.3 * random.standard_normal(240),
            }
        )
        for number in range(3)
    ]
    pd.concat(frames).to_csv("data.csv", index=False)
    return tmp_path / "data.csv"


def spoil(data: Path, row: int, value: float = EXTREME) -> Path:
    """One value of the first series is near the limit of the number format."""
    frame = pd.read_csv(data)
    frame.loc[row, "y"] = value
    frame.to_csv(data, index=False)
    return data


def config_for(path: Path, *overrides: str) -> TrainingConfig:
    small = (
        "model.hidden_size=8", "model.context_length=24", "model.horizon=6", "fit.max_steps=40", "fit.val_check_steps=20",
        "fit.batch_size=16", "gradients.preset=off",
    )  # fmt: skip
    return load_config(None, [f"data.path={path}", *small, *overrides])


def fail(config: TrainingConfig, output: str = "run") -> NumericalError:
    with pytest.raises(NumericalError) as caught:
        pipeline.train(config, output=Path(output))
    return caught.value


EXPLODING = (
    "optimizer.name=sgd", "optimizer.learning_rate=1e18", "fit.max_grad_norm=null", "fit.loss=mse", "model.head=point",
)  # fmt: skip
CASES = {
    "extreme value": (100, "loss", ("model.scaler=none",)),
    "dropout in two layers": (
        100,
        "loss",
        ("model.scaler=none", "model.architecture=gru", "model.num_layers=2", "model.dropout=0.4"),
    ),
    "scaler overflows": (100, "scaling", ()),
    "truncated": (100, "loss", ("model.scaler=none", "fit.tbptt_steps=8")),
    "double precision": (None, "loss", (*EXPLODING, "fit.precision=float64", "optimizer.learning_rate=1e100")),
    "rate far too high": (None, "layer", (*EXPLODING, "model.scaler=none", "model.architecture=rnn")),
}


@pytest.mark.parametrize(("row", "stage", "settings"), CASES.values(), ids=list(CASES))
def test_the_record_alone_repeats_the_step_to_the_last_bit(
    data: Path, row: int | None, stage: str, settings: tuple[str, ...]
) -> None:
    """Same place, same loss, same gradient norms, after the data file is gone and the generators have moved on."""
    if row is not None:
        spoil(data, row)
    error = fail(config_for(data, *settings))
    assert "gradcast diagnose --replay run/forensics" in str(error)
    data.unlink()
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    result = replay(Path("run/forensics"))
    assert result.place is not None
    assert result.place.stage == stage
    assert result.is_same_place
    assert result.is_same_loss
    assert result.notes == ()
    assert torch.equal(torch.get_rng_state(), before)
    assert result.error.split(" must be ")[0] == error.where
    if row is not None:
        assert {series for series, _ in result.windows} == {"s0"}
        assert [w.is_finite for w in result.what_ifs if w.name == "without_windows"] == [True]


def test_the_record_is_small_and_holds_nothing_that_runs(data: Path) -> None:
    """JSON and safetensors, nothing else; the weights are those before the step."""
    fail(config_for(spoil(data, 100), "model.scaler=none"))
    files = sorted(path.name for path in Path("run/forensics").iterdir())
    assert files == [BATCH, MANIFEST, WEIGHTS]
    assert sum(path.stat().st_size for path in Path("run/forensics").iterdir()) < 200_000
    recorded = read_forensics(Path("run"))
    assert recorded.manifest.step > 1
    assert recorded.manifest.learning_rate is not None
    assert len(recorded.manifest.series) == recorded.manifest.batch_size == 16
    assert all(bool(torch.isfinite(weight).all()) for weight in recorded.forecaster.parameters())
    loc, scale = recorded.scaler_state
    assert (loc.shape, scale.shape) == ((16, 1), (16, 1))


def test_the_state_of_the_generator_draws_the_same_windows(data: Path) -> None:
    """With the data at hand, the recorded generator gives the batch again."""
    config = config_for(spoil(data, 100), "model.scaler=none")
    fail(config)
    recorded = read_forensics(Path("run"))
    prepared = pipeline.prepare(config)
    generator = torch.Generator()
    generator.set_state(recorded.random["random.windows"])
    windows = TrainingWindows(prepared.store, prepared.splits)
    batch = prepared.store.gather(*windows.sample(16, generator))
    assert torch.equal(batch.inputs.context, recorded.batch.inputs.context)
    assert tuple(batch.cutoff.tolist()) == recorded.manifest.cutoffs


def test_a_validation_loss_that_is_not_finite_is_recorded_too(data: Path) -> None:
    """The extreme value lies in the validation rows, where no training window sees it."""
    error = fail(config_for(spoil(data, 236), "model.scaler=none"))
    assert error.where.startswith("validation loss")
    assert "series 's0'" in str(error)
    result = replay(Path("run"))
    assert (result.kind, result.grad_norm, result.is_reproduced) == ("validation", None, True)
    assert result.is_same_loss
    assert result.place is not None
    assert result.place.stage == "loss"
    last, _ = read_checkpoint(Path("run/checkpoints") / LAST) if Path("run/checkpoints").exists() else ({}, {})
    assert not last  # it broke at the first check
    assert "These windows alone" in describe_replay(result)


def test_what_would_have_held_is_told_from_what_would_not(data: Path) -> None:
    """A rate far too high: the weights are to blame, not the windows, and no clipping of this step would help."""
    fail(config_for(data, *EXPLODING, "model.scaler=none"))
    result = replay(Path("run"))
    held = {what_if.name: what_if.is_finite for what_if in result.what_ifs}
    assert held["fresh_weights"]
    assert not held["clipping"]
    assert "without_windows" not in held
    text = describe_replay(result)
    assert "training made the weights too large" in text
    assert "optimizer.learning_rate" in text
    assert "--set fit.precision" not in text  # finite at 1e100 is no advice


def test_weights_that_torch_would_not_begin_with_are_blamed(data: Path) -> None:
    """A gain of 8 on a rectified recurrence breaks at the first step; the gain is what to take back."""
    fail(
        config_for(
            data, "model.architecture=rnn", "model.nonlinearity=relu", "model.initialization=torch", "model.init_gain=8",
            "model.context_length=120",
        )
    )  # fmt: skip
    result = replay(Path("run"))
    assert result.place is not None
    assert (result.step, result.place.stage, result.place.layer) == (1, "layer", "rnn.0")
    assert "--set model.init_gain=null" in describe_replay(result)


def test_a_batch_too_large_is_cut_to_the_windows_that_matter(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The named windows are kept first; the place is found again, and nothing is claimed about the bits."""
    monkeypatch.setattr(forensics, "MAX_BYTES", 20_000)
    fail(config_for(spoil(data, 100), "model.scaler=none", "fit.batch_size=64"))
    result = replay(Path("run"))
    recorded = read_forensics(Path("run"))
    assert 0 < len(recorded.manifest.series) < recorded.manifest.batch_size == 64
    assert (result.is_same_place, result.is_same_loss) == (True, None)
    assert "of 64 windows" in result.notes[0]


def test_weights_too_large_are_not_recorded_and_that_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record is better than a disk that is full."""
    monkeypatch.setattr(forensics, "MAX_BYTES", 1000)
    assert "not recorded" in str(fail(config_for(spoil(data, 100), "model.scaler=none")))
    assert not Path("run/forensics").exists()


def test_a_record_that_cannot_be_written_does_not_hide_the_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place is still in the sentence, and why there is no record."""

    def full(*_arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(forensics, "_replace_directory", full)
    message = str(fail(config_for(spoil(data, 100), "model.scaler=none")))
    assert "series 's0'" in message
    assert "could not be recorded: No space left on device" in message


@pytest.fixture
def record(data: Path) -> Path:
    fail(config_for(spoil(data, 100), "model.scaler=none"))
    return Path("run/forensics")


def rewrite(record: Path, change: Callable[[dict[str, Any]], object], name: str = MANIFEST) -> None:
    """Change the manifest, or tensors together with their hash, as somebody who knows the format would."""
    manifest = json.loads((record / MANIFEST).read_text())
    if name == MANIFEST:
        change(manifest)
    else:
        tensors = safetensors.torch.load_file(record / name)
        change(tensors)
        safetensors.torch.save_file(tensors, record / name)
        manifest["sha256"][name] = hashlib.sha256((record / name).read_bytes()).hexdigest()
    (record / MANIFEST).write_text(json.dumps(manifest))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights changed": (lambda record: flip_a_byte(record / WEIGHTS), "sha256"),
    "batch changed": (lambda record: flip_a_byte(record / BATCH), "sha256"),
    "no manifest": (lambda record: (record / MANIFEST).unlink(), "without forensics.json"),
    "no weights": (lambda record: (record / WEIGHTS).unlink(), "plain file"),
    "a link": (lambda record: relink(record / WEIGHTS), "plain file"),
    "no JSON": (lambda record: (record / MANIFEST).write_text("{" * 10), "readable JSON"),
    "deep JSON": (lambda record: (record / MANIFEST).write_text("[" * 100_000), "readable JSON"),
    "a list": (lambda record: (record / MANIFEST).write_text("[]"), "schema_version"),
    "from the future": (lambda record: rewrite(record, lambda m: m.update(schema_version=2)), "schema_version"),
    "unknown key": (lambda record: rewrite(record, lambda m: m.update(code="import os")), "code"),
    "unknown loss": (lambda record: rewrite(record, lambda m: m.update(loss="os.system")), "loss"),
    "another network": (lambda record: rewrite(record, lambda m: m["network"].update(hidden_size=9)), "tensors"),
    "a huge network": (
        lambda record: rewrite(record, lambda m: m["network"].update(hidden_size=16384, num_layers=64)),
        "tensors",
    ),
    "foreign hashes": (lambda record: rewrite(record, lambda m: m["sha256"].update({"../x": "0"})), "sha256"),
    "windows missing": (lambda record: rewrite(record, lambda m: m.update(series=m["series"][1:])), "of shape"),
    "rows outside": (lambda record: rewrite(record, lambda m: m["place"].update(rows=[99])), "place"),
    "no context": (lambda record: rewrite(record, lambda t: t.pop("context"), BATCH), "context"),
    "integers": (lambda record: rewrite(record, lambda t: t.update(target=t["target"].int()), BATCH), "target"),
    "random state": (
        lambda record: rewrite(record, lambda t: t.update({"random.torch": torch.zeros(3, dtype=torch.uint8)}), BATCH),
        "random.torch",
    ),
    "weights in half": (
        lambda record: rewrite(record, lambda t: t.update({k: v.half() for k, v in t.items()}), WEIGHTS),
        "float32 or all float64",
    ),
}  # fmt: skip


def relink(path: Path) -> None:
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").resolve())


@pytest.mark.parametrize("tamper", TAMPERED)
def test_a_damaged_or_hostile_record_is_refused_in_a_sentence(
    record: Path, tamper: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, exit code 2, and the sentence says what is wrong."""
    harm, expected = TAMPERED[tamper]
    harm(record)
    with pytest.raises(ForensicsError, match="must be"):
        replay(record)
    assert main(["diagnose", "--replay", str(record)]) == 2
    assert expected in capsys.readouterr().err


def test_a_state_that_torch_refuses_is_a_sentence_too(record: Path) -> None:
    """A random state of the right size and wrong content reaches torch, which raises; that is translated."""
    rewrite(record, lambda tensors: tensors["random.torch"].fill_(255), BATCH)
    try:
        result: ReplayResult | None = replay(record)
    except ForensicsError:
        result = None
    assert result is None or result.is_same_place


def test_the_command_prints_the_replay_and_its_json(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`gradcast diagnose --replay`, for people and for programs; the run's own directory will do."""
    assert main(["diagnose", "--replay", str(record)]) == 0
    text = capsys.readouterr().out
    assert "equal to the last bit" in text
    assert "what would have made this step finite" in text
    assert main(["diagnose", "--replay", "run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["is_reproduced"] is True
    assert document["place"]["stage"] == "loss"
    assert document["loss"] == "inf"
