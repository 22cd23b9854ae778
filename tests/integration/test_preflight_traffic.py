"""Preflight on the shipped road traffic, and as a verb."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training import pipeline
from training.checkpoint import LAST, read_checkpoint
from training.cli import main
from training.config import TrainingConfig, load_config
from training.data.shipped import shipped_path
from training.preflight import Preflight, preflight
from training.preparation import prepare

REPOSITORY = Path(__file__).resolve().parents[2]
WINDOW = ("model.context_length=168", "model.horizon=24", "data.season_length=168", "data.test_size=672")


def traffic(*overrides: str) -> TrainingConfig:
    return load_config(None, [*WINDOW, *overrides], {"data.path": str(shipped_path("metro_traffic"))})


def look(*overrides: str) -> Preflight:
    return preflight(prepare(traffic(*overrides)))


@pytest.mark.slow
def test_without_a_calendar_a_week_is_needed_and_only_a_long_memory_reaches_it() -> None:
    """Need 168; rnn and LSTM as torch starts them see a dozen steps, an LSTM with chrono sees all of them."""
    blind = ("data.calendar=none",)
    rnn = look(*blind, "model.architecture=rnn", "model.initialization=torch")
    assert rnn.need is not None
    assert (rnn.need.steps, rnn.need.is_shown) == (168, True)
    assert rnn.need.evidence["gain"] > 0.3
    assert rnn.whole is not None
    assert rnn.whole.steps < 30
    assert rnn.whole.ratio_at_need < 1e-20
    assert not rnn.reaches
    assert "pays back to 168 steps" in rnn.headline
    assert {"model.architecture": "lstm", "model.initialization": "chrono"} in [entry.set for entry in rnn.alternatives]
    assert not look(*blind, "model.initialization=torch").reaches
    assert look(*blind, "model.initialization=chrono").reaches


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("data.futr_exog=[is_holiday]",)])
def test_with_a_calendar_the_need_is_short_and_torchs_own_start_is_chosen(extra: tuple[str, ...]) -> None:
    """Covariates that say where in the week a step is leave little to remember; chrono would only slow learning."""
    prepared = prepare(traffic(*extra))
    assert prepared.need is not None
    assert prepared.need.steps < 24
    assert prepared.config.model.initialization == "torch"
    assert preflight(prepared).reaches


def test_a_declared_need_beats_the_data() -> None:
    """Whatever the estimate would say."""
    found = look("gradients.need_steps=24", "model.initialization=torch")
    assert found.need is not None
    assert (found.need.steps, found.need.source) == (24, "declared")
    assert not found.reaches
    assert "as you declared" in found.headline


def test_training_after_a_preflight_is_equal_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preflight between preparation and the first step changes no weight of the run, dropout included."""
    monkeypatch.chdir(tmp_path)
    config = traffic("fit.max_steps=6", "model.hidden_size=8", "model.dropout=0.3", "gradients.preset=off",
                     "data.test_size=0", "gradients.need_steps=24")  # fmt: skip
    pipeline.train(config, output=Path("plain"))

    def prepare_and_look(config: TrainingConfig, **more: Any) -> Any:
        prepared = prepare(config, **more)
        preflight(prepared)
        return prepared

    monkeypatch.setattr(pipeline, "prepare", prepare_and_look)
    pipeline.train(config, output=Path("looked"))
    plain, looked = (read_checkpoint(Path(name) / "checkpoints" / LAST)[0] for name in ("plain", "looked"))
    assert plain.keys() == looked.keys()
    assert all(torch.equal(tensor, looked[name]) for name, tensor in plain.items())


def test_the_verb_prints_one_json_document_and_is_quiet(tmp_path: Path) -> None:
    """Exit code 0 also where the reach is short: preflight tells, it does not judge."""
    cache = tmp_path / "cache"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)}
    words = [
        "preflight",
        "--data",
        str(shipped_path()),
        "--architecture",
        "rnn",
        "--horizon",
        "24",
        "--context-length",
        "96",
    ]
    words += ["--set", "model.initialization=torch"]
    settings = ["--set", "gradients.need_steps=72", "--set", "gradients.preset=off", "--json", "--quiet"]
    command = [sys.executable, "-m", "training", *words, *settings]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["need_steps"] == 72
    assert document["reaches"] is False
    assert document["reach_steps"] < 72
    assert document["alternatives"]
    memory, disk = document["cost"]["memory_bytes"], document["cost"]["disk_bytes"]
    process = memory["process"]
    assert process["libraries"] > 100e6, "Python with torch, pandas and all"
    assert process["peak"] == process["libraries"] + process["preparation"] + process["fit"]
    assert disk["total"] == disk["run"] > 3 * memory["weights"]
    kept = [path.name for path in (cache / "gradcast" / "measured").iterdir()]
    assert [name.partition("-")[0] for name in kept] == ["libraries"], "measured once"
    assert list(tmp_path.iterdir()) == [cache], "nothing else is written"


def test_the_verb_imports_no_tracker(tmp_path: Path) -> None:
    """mlflow and torch's compiler would take longer to import than everything else takes to run."""
    program = (
        "import sys; from training.cli import main; main(sys.argv[1:]); "
        "print([name for name in ('mlflow', 'sympy', 'matplotlib') if name in sys.modules], file=sys.stderr)"
    )
    words = [
        "preflight",
        "--data",
        str(shipped_path()),
        "--quiet",
        "--set",
        "gradients.need_steps=24",
        "--horizon",
        "24",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("Your data pays back to 24 steps (as you declared)")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "must name a data file"),
        (["--data", "absent.csv"], "absent.csv"),
        (["--set", "model.initialisation=torch"], "Did you mean model.initialization"),
        (["--data", str(shipped_path()), "--architecture", "rnn", "--set", "model.forget_bias=1"], "model.forget_bias"),
    ],
)
def test_a_mistake_is_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    """Bad configuration and missing data, in a sentence."""
    monkeypatch.chdir(tmp_path)
    assert main(["preflight", *words]) == 2
    assert sentence in capsys.readouterr().err
