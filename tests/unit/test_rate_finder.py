"""The range test: the suggestion follows from the curve, and nothing is suggested where nothing falls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training.cli import main
from training.config import load_config
from training.rate_finder import find_rate, read_test, smooth


def test_a_tenth_of_the_rate_with_the_lowest_loss_is_suggested() -> None:
    """A valley at 0.03, drawn by hand, gives 0.003, whatever the noise of the first steps."""
    rates = np.geomspace(1e-6, 10.0, 400)
    valley = 1.0 + np.minimum(np.log10(rates / 0.03) ** 2, 4.0)
    valley[:3] += (0.5, -0.5, 0.2)
    test = read_test(rates, valley, is_broken=True)
    assert test.suggestion == pytest.approx(0.003, rel=0.5)
    assert "Try a learning rate of" in test.sentence()


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    """Noise alone is no valley; the sentence says where to look instead."""
    rates = np.geomspace(1e-6, 10.0, 200)
    noise = 1.0 + 0.02 * np.random.default_rng(0).standard_normal(200)
    test = read_test(rates, noise, is_broken=False)
    assert test.suggestion is None
    assert "No rate from 1.0e-06 to 1.0e+01 lowered the loss" in test.sentence()


def test_the_mean_is_not_drawn_to_zero_at_its_beginning() -> None:
    """A constant stays constant from the first step."""
    assert smooth(np.full(5, 3.0)) == pytest.approx(np.full(5, 3.0))


def test_nothing_of_the_test_is_kept_and_the_curve_is_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a wave: a usual rate, no run directory, a page that leads nowhere; a wrong range is refused."""
    monkeypatch.chdir(tmp_path)
    hours = np.arange(400)
    frame = pd.DataFrame({"ds": hours, "y": 10 + 3 * np.sin(2 * np.pi * hours / 12)})
    frame.to_csv("wave.csv", index=False)
    small = ["model.hidden_size=8", "model.context_length=24", "model.horizon=4", "data.season_length=12"]
    options = [word for setting in small for word in ("--set", setting)]
    assert main(["lr-find", "--data", "wave.csv", "--output", "rate.html", "--quiet", *options]) == 0
    assert "--set optimizer.learning_rate=" in capsys.readouterr().out
    assert "://" not in Path("rate.html").read_text(encoding="utf-8").replace("http://www.w3.org", "")
    assert {path.name for path in tmp_path.iterdir()} == {"wave.csv", "rate.html"}
    suggestion = find_rate(load_config(None, ["data.path=wave.csv", *small]), lambda _sentence: None).suggestion
    assert suggestion is not None
    assert 3e-4 < suggestion < 0.3
    assert main(["lr-find", "--data", "wave.csv", "--lowest", "1", "--highest", "0.1", "--steps", "3"]) == 2
    assert "has 2 problems" in capsys.readouterr().err
