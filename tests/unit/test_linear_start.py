"""The start of a linear map against laws it must find, errors worked by hand, and rows it must not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models.heads import DistributionOutput, PointOutput, QuantileOutput
from models.linear import LinearForecaster
from training import linear_start
from training.assembly import Assembly, assemble
from training.config import TrainingConfig, build_config
from training.data.panel import Panel, build_panel
from training.data.splits import build_splits

CONTEXT, HORIZON = 12, 4


def configuration(**model: Any) -> TrainingConfig:
    return build_config({
        "data": {"freq": "1", "season_length": 5, "calendar": "none", "futr_exog": ["x"]},
        "model": {"architecture": "linear", "horizon": HORIZON, "context_length": CONTEXT, "scaler": "last"} | model,
    })  # fmt: skip


def waves(length: int = 400, unit: float = 1.0, level: float = 0.0) -> Panel:
    """Two sine waves obey a linear recurrence."""
    t = np.arange(length)
    y = level + unit * (50 + 10 * np.sin(2 * np.pi * t / 7.3) + 4 * np.sin(2 * np.pi * t / 3.1 + 1))
    x = np.random.default_rng(0).standard_normal(length)
    return build_panel(pd.DataFrame({"unique_id": "a", "ds": t, "y": y, "x": x}), configuration().data, horizon=HORIZON)


def assembled(panel: Panel, **model: Any) -> Assembly:
    config = configuration(**model)
    if config.model.architecture == "segrnn":
        tree = config.model_dump()
        tree["model"] |= {"segment_length": 4, "initialization": "torch", "skip": "none"}
        config = build_config(tree)
    return assemble(config, panel, build_splits(panel, HORIZON, 8, 24), torch.device("cpu"))


def worst_error(assembly: Assembly) -> float:
    """Of the center on the last rows, the test rows, in the unit of y."""
    cutoff = torch.arange(370, 390)
    batch = assembly.store.gather(torch.zeros_like(cutoff), cutoff)
    with torch.no_grad():
        forecast = assembly.forecaster.eval()(batch.inputs)
    return float((forecast[..., forecast.shape[-1] // 2] - batch.target).abs().max())


@pytest.mark.parametrize("model", [{}, {"head": "point"}, {"scaler": "standard"}, {"scaler": "none"}, {"scaler": "revin"}])
def test_a_linear_law_is_known_before_the_first_step(monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]) -> None:
    """Amplitudes of 10 and 4; whatever the scaler and the head. Without the start the error is as large as they are."""
    monkeypatch.setattr(linear_start, "RIDGE", 1e-5)
    assert worst_error(assembled(waves(), **model)) < 0.05
    monkeypatch.setattr("training.assembly.start_linear", lambda *_: None)
    assert worst_error(assembled(waves(), **model)) > 5


def test_the_penalty_costs_little() -> None:
    """The start as it is."""
    assert worst_error(assembled(waves())) < 2


def test_the_linear_part_of_a_mean_starts_like_a_linear_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its windows count in another unit, which changes nothing but the penalty; from the last value both."""
    monkeypatch.setattr(linear_start, "RIDGE", 1e-5)
    mean = assembled(waves(), architecture="segrnn", linear_share=0.5, scaler="standard")
    cutoff = torch.arange(370, 390)
    batch = mean.store.gather(torch.zeros_like(cutoff), cutoff)
    with torch.no_grad():
        _, part = mean.forecaster.eval().forward_parts(batch.inputs, batch.target, batch.target_mask)
    values = part.forecast.prediction[..., 2] * part.forecast.scale + part.forecast.loc
    assert float((values - batch.target).abs().max()) < 0.05


def test_a_mean_may_read_less_than_its_context_linearly() -> None:
    """The regression reads the same steps as the map; so of those before them it needs none."""
    short, panel = {"architecture": "segrnn", "linear_share": 0.5, "linear_length": 5}, waves()
    weights = [assembled(panel, **short, **more).forecaster.state_dict() for more in ({}, {"recurrent_length": 8})]
    assert weights[0]["linear.decoder.weight"].shape == (HORIZON * 5, 5)
    assert torch.count_nonzero(weights[0]["linear.decoder.weight"][2::5]) == HORIZON * 4


def test_it_is_right_in_any_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megawatts on a high level, read as they are: the penalty weighs as much as for numbers around one."""
    monkeypatch.setattr(linear_start, "RIDGE", 1e-4)
    small, large = (worst_error(assembled(waves(unit=unit), scaler="none")) / unit for unit in (1.0, 1e6))
    assert large == pytest.approx(small, rel=0.05)
    assert worst_error(assembled(waves(level=1e6), scaler="none")) < 20
    constant = waves()
    constant.values[:] = 0.0
    assert worst_error(assembled(constant)) == 0.0


def test_only_the_newest_steps_of_a_long_context_are_regressed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for training, at zero."""
    monkeypatch.setattr(linear_start, "MAX_CONTEXT_COLUMNS", 5)
    linear = assembled(waves()).forecaster
    assert isinstance(linear, LinearForecaster)
    assert torch.count_nonzero(linear.decoder.weight[:, :-5]) == 0
    assert torch.count_nonzero(linear.decoder.weight[2::5, -5:]) == HORIZON * 4  # the last is 0, its level


def test_no_row_after_the_training_rows_is_looked_at() -> None:
    """Other values there change no weight."""
    panel = waves()
    before = assembled(panel).forecaster.state_dict()
    panel.values[-32:] *= 1e6
    after = assembled(panel).forecaster.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_quantiles_start_around_the_center_as_the_errors_lie() -> None:
    """Errors of 1 to 101: their quantiles, through the output and back."""
    output = QuantileOutput((0.1, 0.25, 0.5, 0.75, 0.9))
    errors = torch.arange(1.0, 102.0)[:, None].repeat(1, 2)
    errors[:, 1] *= -0.5
    errors[0, 0] = torch.nan
    found = output.constrain(output.start_around(errors)[None])[0]
    torch.testing.assert_close(found[1], torch.tensor([-45.5, -38.0, -25.5, -13.0, -5.5]))
    torch.testing.assert_close(found[0], torch.tensor([12.0, 26.75, 51.5, 76.25, 91.0]), atol=0.2, rtol=0)
    unknown = output.constrain(output.start_around(torch.full((3, 1), torch.nan))[None])[0, 0]
    assert unknown.isfinite().all()
    assert unknown.diff().gt(0).all()
    assert PointOutput().start_around(errors).tolist() == [[0.0], [0.0]]
    assert DistributionOutput("normal", (0.5,)).center_channel is None


def test_a_distribution_starts_as_before() -> None:
    """None of its raw channels is the center."""
    forecaster = assembled(waves(), head="normal", scaler="standard").forecaster
    assert isinstance(forecaster, LinearForecaster)
    assert torch.equal(forecaster.decoder.weight, torch.full_like(forecaster.decoder.weight, 1 / CONTEXT))


@pytest.mark.parametrize("effect", [0.0, 3.0])
def test_what_a_covariate_adds_is_known_before_the_first_step(effect: float) -> None:
    """Where nothing else can be known: that many units of y for a standard deviation of the column."""
    rng, t = np.random.default_rng(1), np.arange(400)
    x, noise = rng.standard_normal((2, 400))
    frame = pd.DataFrame({"unique_id": "a", "ds": t, "y": 50 + effect * x + 0.1 * noise, "x": 7 + 2 * x})
    linear = assembled(build_panel(frame, configuration().data, horizon=HORIZON), scaler="none").forecaster
    assert isinstance(linear, LinearForecaster)
    assert linear.covariates is not None
    weight = linear.covariates.weight[:, 0].detach()
    assert weight[2] == pytest.approx(effect * x[:368].std(), rel=0.15, abs=0.02)
    assert torch.count_nonzero(weight) == 1
