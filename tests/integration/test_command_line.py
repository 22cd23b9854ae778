"""The command line as its user meets it: exit codes, sentences, and verbs that do what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.cli import build_parser, main
from training.commands import serve

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two daily-wave series, in a directory of their own that is the current one."""
    monkeypatch.chdir(tmp_path)
    hours = np.arange(240)
    frames = [
        pd.DataFrame(
            {
                "unique_id": f"s{number}",
                "ds": pd.date_range("2024-01-01", periods=240, freq="h"),
                "y": 10 * (number + 1) + np.sin(2 * np.pi * hours / 24),
            }
        )
        for number in range(2)
    ]
    pd.concat(frames).to_csv(tmp_path / "waves.csv", index=False)
    return tmp_path / "waves.csv"


def gradcast(*words: str) -> tuple[int, Any]:
    """Run the command in a process of its own; its exit code and the JSON document on its stdout."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training", *words, "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout)


def train(data: Path, *more: str) -> tuple[int, Any]:
    """A fit of a second or two."""
    small = ["--max-steps", "10", "--horizon", "6", "--context-length", "24", "--set", "model.hidden_size=4"]
    return gradcast("train", "--data", str(data), "--name", "waves", *small, "--quiet", *more)


def test_train_promote_forecast_and_backtest_from_the_registry(data: Path) -> None:
    """`promote NAME VERSION ALIAS` moves the alias, and the verbs find the model by it."""
    code, document = train(data)
    assert (code, document["model"]["version"]) == (0, 1)
    code, model = gradcast("models", "promote", "waves", "1", "chosen")
    assert code == 0
    assert model["aliases"]["chosen"] == 1
    output = data.with_name("forecast.parquet")
    code, forecast = gradcast("forecast", "--model", "waves@chosen", "--data", str(data), "--output", str(output))
    assert (code, len(forecast)) == (0, 12)
    assert pd.read_parquet(output)["unique_id"].tolist() == [row["unique_id"] for row in forecast]
    assert forecast[0]["ds"].startswith("2024-01-11")
    code, scores = gradcast("backtest", "--model", "waves@chosen", "--data", str(data), "--n-windows", "2")
    assert (code, scores["windows"]) == (0, 4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["validate"], "must name a data file"),
        (["train", "--set", "optimizer.lerning_rate=1"], "Did you mean optimizer.learning_rate"),
        (["train", "--resume", "nowhere"], "run.json"),
        (["forecast", "--bundle", "nowhere", "--data", "absent.csv"], "bundle.json"),
    ],
)
def test_a_users_mistake_is_exit_code_2_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    """Never a traceback."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_an_unhealthy_verdict_is_exit_code_4_when_asked(data: Path) -> None:
    """Ten steps at a rate that moves nothing leave a model worse than a linear one."""
    assert train(data, "--no-register", "--fail-on", "unhealthy", "--set", "optimizer.learning_rate=1e-9")[0] == 4


def test_a_flag_beats_the_environment_of_the_service_and_its_absence_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container says GRADCAST_HOST=0.0.0.0; `gradcast serve` without --host must not turn that back to loopback."""
    monkeypatch.setenv("GRADCAST_HOST", "0.0.0.0")
    monkeypatch.setenv("GRADCAST_PORT", "9000")
    kept = serve.service_environment(build_parser("serve").parse_args(["serve"]))
    assert (kept["GRADCAST_HOST"], kept["GRADCAST_PORT"]) == ("0.0.0.0", "9000")
    given = serve.service_environment(build_parser("serve").parse_args(["serve", "--host", "::1", "--port", "0"]))
    assert (given["GRADCAST_HOST"], given["GRADCAST_PORT"]) == ("::1", "0")
