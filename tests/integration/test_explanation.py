"""Explanations add up, see what is there, and say how far back a forecast looks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from models.bundle import Bundle, load_bundle
from training import pipeline
from training.cli import main
from training.config import load_config
from training.explanation import FrozenWindow, explain
from training.forecasting import build_request_panel, forecast_panel

LENGTH, HORIZON = 24, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose next value is the one seven steps back plus a known covariate, and a bundle per architecture."""
    folder = tmp_path_factory.mktemp("explain")
    random = np.random.default_rng(0)
    noise, known = random.standard_normal(600 + HORIZON), random.standard_normal(600 + HORIZON)
    y = np.zeros(600 + HORIZON)
    for row in range(len(y)):
        y[row] = (0.9 * y[row - 7] if row >= 7 else 0.0) + 2.0 * known[row] + 0.3 * noise[row]
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(len(y)), "y": y, "known": known, "size": 1.0})
    frame.loc[frame.index >= 600, "y"] = np.nan
    frame.to_csv(folder / "data.csv", index=False)
    heads = {"linear": "quantile", "lstm": "quantile", "segrnn": "student_t", "segrnn+mean": "quantile"}
    for architecture, head in heads.items():
        config = load_config(
            None,
            [
                f"data.path={folder / 'data.csv'}", "data.futr_exog=[known]", "data.stat_exog=[size]", "data.calendar=none",
                f"model.architecture={architecture.partition('+')[0]}", f"model.head={head}", "model.hidden_size=16",
                *(["model.linear_share=0.5"] if "+" in architecture else []),
                f"model.context_length={LENGTH}",
                f"model.horizon={HORIZON}", "data.season_length=7", "fit.max_steps=300", "optimizer.learning_rate=0.01",
                "gradients.preset=off", "model.initialization=torch" if architecture != "linear" else "model.dropout=0.0",
            ],
        )  # fmt: skip
        pipeline.train(config, output=folder / architecture)
    return folder


def opened(place: Path, architecture: str) -> tuple[Bundle, pd.DataFrame]:
    return load_bundle(place / architecture / "bundle"), pd.read_csv(place / "data.csv")


@pytest.mark.parametrize("architecture", ["linear", "lstm", "segrnn", "segrnn+mean"])
@pytest.mark.parametrize("step", [None, 2])
def test_the_parts_add_up_to_the_difference_of_the_forecasts(place: Path, architecture: str, step: int | None) -> None:
    """Completeness: sum of all attributions = forecast - forecast of the flat window, and the forecast is the model's."""
    bundle, frame = opened(place, architecture)
    panel = build_request_panel(bundle.manifest, frame)
    [explanation] = explain(bundle, panel, None, step)
    median = forecast_panel(bundle, panel).quantiles[0, :, 2]
    expected = median.mean() if step is None else median[step - 1]
    assert explanation.forecast == pytest.approx(expected, abs=1e-4)
    assert explanation.attributions.total() == pytest.approx(
        explanation.forecast - explanation.flat_forecast, abs=2e-3 * frame["y"].std()
    )


def test_gradients_are_those_of_finite_differences(place: Path) -> None:
    """Of every past step: the explained forecast of a window nudged up and down by hand."""
    bundle, frame = opened(place, "lstm")
    panel = build_request_panel(bundle.manifest, frame)
    forecaster = bundle.forecaster.double()
    [explanation] = explain(bundle, panel, None, 1)
    from training.data.windows import WindowStore

    inputs = WindowStore(panel, LENGTH, HORIZON).gather(torch.tensor([0]), torch.from_numpy(panel.lengths)).inputs
    window = FrozenWindow(forecaster, inputs, 1)
    context, *others = window._inputs
    for lag in (1, 7, 20):
        nudge = torch.zeros_like(context)
        nudge[0, -lag] = 1e-5
        slope = (window(context + nudge, *others) - window(context - nudge, *others)).item() / 2e-5 / window._scale.item()
        assert explanation.gradients.context[-lag] == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_an_explanation_finds_what_the_data_was_made_of(place: Path) -> None:
    """One step ahead the linear model uses the value seven steps back and the covariate of that very step."""
    bundle, frame = opened(place, "linear")
    panel = build_request_panel(bundle.manifest, frame)
    [explanation] = explain(bundle, panel, ["a"], 1)
    gradient = np.abs(explanation.gradients.context[::-1])
    assert int(gradient.argmax()) + 1 == 7
    assert np.abs(explanation.gradients.future[1:]).max() < 1e-6
    assert explanation.gradients.future[0, 0] > 0.5


def test_the_verb_writes_page_and_table_and_refuses_what_is_not_there(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Rows for every input, one sentence about looking back; unknown series and steps are named together."""
    command = ["explain", "--bundle", str(place / "lstm" / "bundle"), "--data", str(place / "data.csv")]
    page, table = tmp_path / "why.html", tmp_path / "why.parquet"
    assert main([*command, "--html", str(page), "--output", str(table), "--json", "--horizon-step", "2"]) == 0
    document = json.loads(capsys.readouterr().out)["explanations"][0]
    rows = pq.read_table(table)
    assert rows.num_rows == LENGTH + LENGTH + HORIZON + 1
    assert set(rows["column"].to_pylist()) == {"y", "known", "size"}
    total = sum(rows["attribution"].to_pylist())
    assert total == pytest.approx(document["forecast"] - document["flat_forecast"], abs=1e-2)
    assert rows["ds"].to_pylist()[LENGTH - 1] == 599
    assert "of what moves this forecast lies within the last" in document["sentence"] + " of what moves"
    assert "<svg" in page.read_text(encoding="utf-8")
    assert main([*command, "--series", "b", "--horizon-step", "9"]) == 2
    said = capsys.readouterr().err
    assert "series 'b': is not in the data." in said
    assert "--horizon-step: must be from 1 to 4" in said
