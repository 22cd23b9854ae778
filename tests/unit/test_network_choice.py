"""The network of a configuration that names none: what its settings say, or a comparison on held-out training rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import training.network_choice as network_choice
from models.forecaster import ScaledForecast
from training.choices import Choices, resolve_choices
from training.config import TrainingConfig, build_config
from training.data.panel import Panel, build_panel
from training.data.splits import build_splits
from training.network_choice import choose_network
from training.network_trial import Trial, trial_steps, try_network
from training.validation_loss import ValidationLoss

CPU = torch.device("cpu")
HORIZON = 8


@pytest.mark.parametrize(
    ("tree", "architecture", "rate"),
    [
        ({}, None, 0.001),
        ({"model": {"architecture": "segrnn"}}, "segrnn", 0.003),
        ({"model": {"segment_length": 8}}, "segrnn", 0.003),
        ({"model": {"architecture": "segrnn"}, "optimizer": {"learning_rate": 0.002}}, "segrnn", 0.002),
        ({"model": {"architecture": "segrnn"}, "optimizer": {"name": "sgd"}}, "segrnn", 0.001),
        ({"model": {"architecture": "gru"}}, "gru", 0.001),
        ({"model": {"hidden_size": 32}}, "lstm", 0.001),
        ({"model": {"initialization": "chrono"}}, "lstm", 0.001),
        ({"model": {"skip": "none"}}, "lstm", 0.001),
        ({"fit": {"tbptt_steps": 10}}, "lstm", 0.001),
        ({"model": {"hidden_size": 32}, "fit": {"warm_start": "sales@champion"}}, None, 0.001),
        ({"model": {"scaler": "last", "horizon": 3, "hidden_size": 64}}, None, 0.001),
    ],
)
def test_settings_of_one_kind_of_network_name_it(tree: dict[str, Any], architecture: str | None, rate: float) -> None:
    """What only a recurrence has means lstm, a segment segrnn; each brings its learning rate unless one was written."""
    config = build_config(tree)
    assert (config.model.architecture, config.optimizer.learning_rate) == (architecture, rate)
    again = build_config(config.model_dump(by_alias=True))
    assert (again.model.architecture, again.optimizer.learning_rate) == (architecture, rate)


def configuration(**optimizer: Any) -> TrainingConfig:
    return build_config({
        "data": {"calendar": "none", "season_length": 24, "futr_exog": ["promo"]},
        "model": {"horizon": HORIZON, "context_length": 48},
        "fit": {"max_steps": 800, "num_threads": 1},
        "optimizer": optimizer,
    })  # fmt: skip


def panel_of(values: np.ndarray[Any, Any], promo: np.ndarray[Any, Any]) -> Panel:
    ds = pd.date_range("2026-01-01", periods=len(values), freq="h")
    frame = pd.DataFrame({"unique_id": "a", "ds": ds, "y": values, "promo": promo})
    return build_panel(frame, configuration().data)


def gated_season(length: int = 1500) -> Panel:
    """The season is there where the promotion is on, else not: no sum of window and covariates says so."""
    rng = np.random.default_rng(0)
    promo = (rng.random(length) < 0.5).astype(float)
    season = np.sin(2 * np.pi * np.arange(length) / 24)
    return panel_of(10 * promo * season + 0.1 * rng.standard_normal(length), promo)


def noise(length: int = 300) -> Panel:
    """Nothing to learn but the level, and few rows to learn by heart."""
    rng = np.random.default_rng(1)
    return panel_of(rng.standard_normal(length), (rng.random(length) < 0.5).astype(float))


def forecast(value: float) -> ScaledForecast:
    return ScaledForecast(torch.full((1, 1, 1), value), torch.zeros(1, 1), torch.ones(1, 1))


def judging(forecast_made: ScaledForecast, loss_of: Callable[[float], float]) -> Trial:
    """A trial that made this forecast of three windows alike, whose losses are a function of the value forecast."""

    def judge(forecasts: Sequence[ScaledForecast]) -> ValidationLoss:
        value = forecasts[0].prediction * forecasts[0].scale + forecasts[0].loc
        return ValidationLoss(torch.full((3,), loss_of(float(value)), dtype=torch.float64), torch.ones(3, dtype=torch.float64))

    return Trial(judge([forecast_made]), (forecast_made,), judge, 3)


def judged(loss: float) -> Trial:
    """A trial with this loss, and no mean with another that is any lower."""
    return judging(forecast(0.0), lambda _: loss)


def test_the_recurrent_network_is_taken_where_it_forecasts_held_out_rows_better() -> None:
    """With its own sizes, and the losses in the note."""
    tree = configuration().model_dump(by_alias=True, exclude_unset=True)
    tree["fit"]["max_steps"] = 400
    config, notes, need = choose_network(build_config(tree), gated_season(), CPU)
    assert (config.model.architecture, config.model.hidden_size, config.model.skip) == ("segrnn", 128, "linear")
    assert config.optimizer.learning_rate == 0.003
    assert notes[0].startswith("model.architecture = segrnn, with 128 units, dropout 0.1, learning rate 0.003 (loss on held-out ")
    assert " of linear, " in notes[0]
    assert notes[0].endswith(" of the best mean of both)")
    assert need is not None


def test_what_selects_and_tests_later_is_not_looked_at() -> None:
    """Other values in the validation rows change nothing."""
    losses = []
    for factor in (1.0, 1e6):
        panel = gated_season(600)
        config = resolve_choices(build_config({
            "data": {"calendar": "none", "season_length": 24, "futr_exog": ["promo"], "val_size": 60, "test_size": 40},
            "model": {"architecture": "linear", "horizon": HORIZON, "context_length": 48}, "fit": {"max_steps": 20},
        }), panel).config  # fmt: skip
        panel.values[-100:] *= factor
        inner = network_choice._hold_out(build_splits(panel, HORIZON, 60, 40))
        assert inner.val_end[0] == 500
        assert inner.train_end[0] == 425
        losses.append(try_network(config, panel, inner, CPU).loss)
    assert losses[0] == losses[1]


def test_without_training_and_with_too_few_rows_it_is_the_recurrent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is a comparison, and the note says which."""
    monkeypatch.setattr(network_choice, "try_network", lambda *_: pytest.fail("trained"))
    config, notes, _ = choose_network(configuration(), gated_season(), CPU, may_train=False)
    assert config.model.architecture == "segrnn"
    assert "train compares it" in notes[0]
    config, notes, _ = choose_network(configuration(), gated_season(22), CPU)
    assert config.model.architecture == "segrnn"
    assert "too short to compare" in notes[0]


def test_a_fit_that_breaks_has_lost() -> None:
    """A rate that sends the loss to infinity ends a trial, not the run."""
    tree = configuration().model_dump(by_alias=True, exclude_unset=True)
    tree["model"]["architecture"] = "linear"
    tree["optimizer"] = {"name": "sgd", "learning_rate": 1e38}
    tree["fit"]["max_grad_norm"] = None
    panel = noise(300)
    config = resolve_choices(build_config(tree), panel).config
    splits = network_choice._hold_out(build_splits(panel, HORIZON))
    assert try_network(config, panel, splits, CPU).loss == np.inf


@pytest.mark.parametrize(
    ("budget", "losses", "chosen"),
    [
        (2000, {250: 4.0, 500: 3.0, 1000: 2.0, 2000: 1.0}, 2000),
        (2000, {250: 4.0, 500: 3.0, 1000: 2.0, 2000: 2.5}, 1000),
        (2000, {250: 4.0, 500: 2.0, 1000: 3.0}, 500),
        (2000, {250: 1.0, 500: 3.0, 1000: 2.0, 125: 2.0}, 250),
        (2000, {250: 1.5, 500: 2.0, 1000: 3.0, 125: 1.2}, 125),
        (50_000, {250: 4.0, 500: 3.0, 1000: 2.0, 2000: 1.0}, 50_000),  # a trial has 2,000 at most
        (50_000, {250: 4.0, 500: 3.0, 1000: 2.0, 2000: 2.5}, 1000),
        (800, {100: 1.0, 200: 2.0, 400: 3.0}, 100),  # half of it is no budget
        (300, {150: 2.0, 300: 1.0}, 300),
        (199, {199: 1.0}, 199),
        (1, {1: 1.0}, 1),
    ],
)
def test_the_recurrent_network_gets_the_budget_that_held_out_rows_ask_for(
    monkeypatch: pytest.MonkeyPatch, budget: int, losses: dict[int, float], chosen: int
) -> None:
    """An eighth to a half, then half of the first or the whole if those are best; each tried once, and said if not the whole."""
    tried: list[int] = []

    def loss(config: TrainingConfig, *_: object) -> float:
        if config.model.architecture == "linear":
            return 9.0
        tried.append(trial_steps(config))
        return losses[tried[-1]]

    monkeypatch.setattr(network_choice, "try_network", lambda *given: judged(loss(*given)))
    tree = configuration().model_dump(by_alias=True, exclude_unset=True)
    tree["fit"]["max_steps"] = budget
    config, notes, _ = choose_network(build_config(tree), noise(), CPU)
    assert config.fit.max_steps == chosen
    assert sorted(tried) == sorted(losses)
    said = [note for note in notes if note.startswith("fit.max_steps")]
    assert said == ([] if chosen == budget else said[:1])
    assert bool(said) is (chosen != budget)
    if said:
        found = ", ".join(f"{losses[steps]:.4g} after {steps}" for steps in sorted(losses))
        assert said == [f"fit.max_steps = {chosen} (loss on held-out training rows {found})"]


def test_the_next_longer_budget_is_taken_if_it_is_nearly_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Higher by 4 % on average, once in every window, once in one of them; and by 12 % in one of them."""

    def chosen(of_longer: list[float]) -> int:
        def trial(config: TrainingConfig, *_: object) -> Trial:
            total = {200: [1.0] * 4, 400: of_longer}.get(trial_steps(config), [3.0] * 4)

            def judge(_forecasts: Sequence[ScaledForecast]) -> ValidationLoss:
                return ValidationLoss(torch.tensor(total, dtype=torch.float64), torch.ones(4, dtype=torch.float64))

            return Trial(judge([]), (forecast(0.0),), judge, 4)

        monkeypatch.setattr(network_choice, "try_network", trial)
        return choose_network(configuration(), noise(), CPU).config.fit.max_steps

    assert chosen([1.03, 1.04, 1.05, 1.04]) == 200
    assert chosen([1.16, 1.0, 1.0, 1.0]) == 400
    assert chosen([1.48, 1.0, 1.0, 1.0]) == 200


def test_no_budget_is_tried_that_the_warm_up_would_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule needs steps after it."""
    tried: list[int] = []

    def trial(config: TrainingConfig, *_: object) -> Trial:
        tried.append(config.fit.max_steps)
        return judged(1.0)

    monkeypatch.setattr(network_choice, "try_network", trial)
    tree = configuration(warmup_steps=150).model_dump(by_alias=True, exclude_unset=True)
    choose_network(build_config(tree), noise(), CPU)
    assert tried == [200, 400, 800]  # the last is the linear map
    tried.clear()
    tree["optimizer"]["warmup_steps"] = 400
    choose_network(build_config(tree), noise(), CPU)
    assert tried == [800, 800]


def test_the_linear_map_measures_from_the_last_value_unless_the_scaler_is_set_or_a_likelihood_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Likelihoods of windows scaled differently are not comparable, and have no mean: what is nearly a tie is linear then."""

    def trial(config: TrainingConfig, *_: object) -> Trial:
        return judged(1.0 if config.model.architecture == "linear" else of_segments)

    monkeypatch.setattr(network_choice, "try_network", trial)
    for model, of_segments, scaler in (  # noqa: B007  read by trial
        ({}, 2.0, "last"), ({"scaler": "robust"}, 2.0, "robust"), ({"head": "normal"}, 0.96, "standard"),
    ):  # fmt: skip
        tree = configuration().model_dump(by_alias=True, exclude_unset=True)
        tree["model"] |= model
        chosen = choose_network(build_config(tree), noise(), CPU).config.model
        assert (chosen.architecture, chosen.scaler) == ("linear", scaler)
    of_segments = 0.94
    assert choose_network(build_config(tree), noise(), CPU).config.model.architecture == "segrnn"


def test_a_stop_ends_a_trial_after_its_step() -> None:
    """The run that asked for it ends then, so nothing is concluded."""
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 3

    panel = noise()
    tree = configuration().model_dump(by_alias=True, exclude_unset=True)
    tree["model"]["architecture"] = "linear"
    config = resolve_choices(build_config(tree), panel).config
    splits = network_choice._hold_out(build_splits(panel, HORIZON))
    assert try_network(config, panel, splits, CPU, stop_requested=stop).loss == np.inf
    assert len(asked) == 3


def test_a_file_of_all_defaults_does_what_no_file_does() -> None:
    """`--print-config` writes them out; the network's own defaults still apply."""
    written = build_config(yaml.safe_load(configuration().to_yaml()))
    panel = gated_season()
    of_file, of_none = (choose_network(config, panel, CPU, may_train=False).config for config in (written, configuration()))
    assert of_file == of_none
    assert (of_file.model.hidden_size, of_file.optimizer.learning_rate) == (128, 0.003)


@pytest.mark.parametrize(
    ("losses", "context"),
    [((1.0, 0.9, 0.8), 64), ((1.0, 0.97, 0.94), 64), ((1.0, 0.97, 0.96), 16), ((1.0, 2.0, 3.0), 16)],
)
def test_the_linear_map_looks_back_as_far_as_held_out_rows_say(
    monkeypatch: pytest.MonkeyPatch, losses: tuple[float, float, float], context: int
) -> None:
    """Once, twice and four times the usual context; what is nearly a tie stays short."""
    of_context = dict(zip((16, 32, 64), losses, strict=True))

    def loss(config: TrainingConfig, *_: object) -> float:
        return of_context[config.model.context_length or 0] if config.model.architecture == "linear" else 9.0

    monkeypatch.setattr(network_choice, "try_network", lambda *given: judged(loss(*given)))
    tree = configuration().model_dump(by_alias=True, exclude_unset=True)
    tree["data"]["season_length"] = 1
    del tree["model"]["context_length"]
    config, notes, _ = choose_network(build_config(tree), noise(), CPU)
    assert config.model.context_length == context
    assert any("loss on held-out training rows" in note for note in notes if "context_length" in note) is (context > 16)


def test_the_linear_map_does_not_look_back_over_half_of_a_series_nor_past_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 rows 30; a context in the configuration stays."""
    seen: list[int | None] = []

    def loss(config: TrainingConfig, *_: object) -> float:
        if config.model.architecture == "linear":
            seen.append(config.model.context_length)
        return 1.0 / (1 + len(seen))

    monkeypatch.setattr(network_choice, "try_network", lambda *given: judged(loss(*given)))
    tree = configuration().model_dump(by_alias=True, exclude_unset=True)
    tree["data"]["season_length"] = 1
    choose_network(build_config(tree | {"model": {"horizon": HORIZON, "context_length": 12}}), noise(120), CPU)
    assert seen == [12]
    seen.clear()
    choose_network(build_config(tree | {"model": {"horizon": HORIZON}}), noise(60), CPU)
    assert seen == [16]


@pytest.mark.parametrize(("rows", "context"), [(639, 16), (640, 32)])
def test_segments_look_twice_as_far_where_series_are_long(rows: int, context: int) -> None:
    """Twenty rows for every step of the longer context."""
    tree = configuration().model_dump(by_alias=True, exclude_unset=True)
    tree["data"]["season_length"] = 1
    model = {"horizon": HORIZON, "architecture": "segrnn"}
    config = resolve_choices(build_config(tree | {"model": model, "gradients": {"need_steps": 2}}), noise(rows)).config
    assert config.model.context_length == context


def test_the_mean_of_both_is_taken_where_it_is_clearly_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share and the context with the lowest loss; each part keeps the steps that it was tried with."""
    errors = {("segrnn", 48): 1.0, ("linear", 16): -4.0, ("linear", 32): -3.0, ("linear", 64): -2.0}

    def trial(config: TrainingConfig, *_: object) -> Trial:
        of = errors[config.model.network, config.model.context_length or 0]
        return judging(forecast(of), abs)

    monkeypatch.setattr(network_choice, "try_network", trial)
    monkeypatch.setattr(network_choice, "resolve_choices", lambda config, panel: _with_context(resolve_choices(config, panel)))
    tree = configuration().model_dump(by_alias=True, exclude_unset=True)
    tree["data"]["season_length"] = 1
    del tree["model"]["context_length"]
    config, notes, _ = choose_network(build_config(tree), noise(), CPU)
    model = config.model
    assert (model.architecture, model.linear_share, model.context_length) == ("segrnn", 0.25, 48)
    assert (model.linear_length, model.recurrent_length) == (32, None)
    assert notes[1] == "model.linear_share = 0.25 (a mean with a linear map of 32 steps has 0)"
    errors["linear", 64], errors["linear", 32] = -3.0, -2.0
    config, notes, _ = choose_network(build_config(tree), noise(), CPU)
    model = config.model
    assert (model.linear_share, model.context_length, model.linear_length, model.recurrent_length) == (0.25, 64, None, 48)
    assert notes[2] == "model.context_length = 64 (for the linear map)"
    assert any(note.startswith("model.context_length = ") for note in notes[3:]) is False
    tree["model"] |= {"head": "normal"}
    assert choose_network(build_config(tree), noise(), CPU).config.model.linear_share == 0.0


@pytest.mark.parametrize(
    ("recurrent", "means", "linear", "architecture", "share"),
    [
        (1.00, (1.00, 1.00, 1.00), 1.00, "segrnn", 0.5),  # nothing is better than equal shares
        (0.80, (0.79, 0.81, 0.82), 1.00, "segrnn", 0.25),  # only lower, but in every window
        (0.80, (0.80, 0.81, 0.82), 1.00, "segrnn", 0.0),
        (0.96, (0.80, 0.70, 0.80), 1.00, "segrnn", 0.5),
        (0.96, (1.00, 1.00, 1.01), 1.00, "segrnn", 0.0),
        (1.00, (0.97, 0.96, 0.94), 0.95, "segrnn", 0.75),
        (1.00, (0.97, 0.96, 0.94), 0.90, "linear", 0.0),
    ],
)
def test_the_share_of_a_mean(
    monkeypatch: pytest.MonkeyPatch,
    recurrent: float,
    means: tuple[float, float, float],
    linear: float,
    architecture: str,
    share: float,
) -> None:
    """By the losses of both and of their means with a share of a quarter, a half and three quarters."""
    losses = dict(zip((0.0, 0.25, 0.5, 0.75, 1.0), (recurrent, *means, linear), strict=True))

    def trial(config: TrainingConfig, *_: object) -> Trial:
        own = forecast(float(config.model.architecture == "linear"))
        return judging(own, losses.__getitem__)

    monkeypatch.setattr(network_choice, "try_network", trial)
    config = choose_network(configuration(learning_rate=0.002), noise(), CPU).config
    assert (config.model.architecture, config.model.linear_share) == (architecture, share)
    assert config.optimizer.learning_rate == 0.002  # what the user wrote stays


def _with_context(choices: Choices) -> Choices:
    """Segments read 48 steps."""
    config = choices.config
    if config.model.architecture != "segrnn":
        return choices
    tree = config.model_dump()
    tree["model"]["context_length"] = 48
    return choices._replace(config=build_config(tree))


def test_what_chance_explains_is_no_reason_to_leave_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with the same lower mean loss, once lower in every window, once in one of them only."""

    def choose(of_network: list[float]) -> float:
        def trial(config: TrainingConfig, *_: object) -> Trial:
            own = forecast(float(config.model.architecture == "linear"))

            def judge(forecasts: Sequence[ScaledForecast]) -> ValidationLoss:
                share = float(forecasts[0].prediction)
                total = {0.0: of_network, 0.5: [1.0] * 4}.get(share, [2.0] * 4)
                return ValidationLoss(torch.tensor(total, dtype=torch.float64), torch.ones(4, dtype=torch.float64))

            return Trial(judge([own]), (own,), judge, 4)

        monkeypatch.setattr(network_choice, "try_network", trial)
        return choose_network(configuration(), noise(), CPU).config.model.linear_share

    assert choose([0.87, 0.88, 0.89, 0.88]) == 0.0
    assert choose([0.52, 1.0, 1.0, 1.0]) == 0.5


@pytest.mark.parametrize(("broken", "architecture"), [("linear", "segrnn"), ("segrnn", "linear")])
def test_what_broke_has_no_share(monkeypatch: pytest.MonkeyPatch, broken: str, architecture: str) -> None:
    """Nor a mean with it."""
    monkeypatch.setattr(
        network_choice, "try_network", lambda config, *_: Trial() if config.model.architecture == broken else judged(1.0)
    )
    model = choose_network(configuration(), noise(), CPU).config.model
    assert (model.architecture, model.linear_share) == (architecture, 0.0)


def test_a_mean_of_trials_is_judged_in_the_unit_of_y() -> None:
    """Worked by hand: 3 around 10 in units of 2 is 16, 1 around 20 in units of 4 is 24; a quarter of the way is 18."""
    own = ScaledForecast(torch.full((1, 1, 1), 3.0), torch.full((1, 1), 10.0), torch.full((1, 1), 2.0))
    other = ScaledForecast(torch.full((1, 1, 1), 1.0), torch.full((1, 1), 20.0), torch.full((1, 1), 4.0))
    first, second = judging(own, abs), judging(other, abs)
    assert (first.loss, second.loss) == (16.0, 24.0)
    assert first.mean_with(second, 0.25).loss == 18.0
    assert second.is_clearly_worse_than(first)
    assert not first.is_clearly_worse_than(second)
    assert first.mean_with(Trial(), 0.25).loss == np.inf
    assert Trial().loss == np.inf
    assert Trial().is_clearly_worse_than(first)
    assert not first.is_clearly_worse_than(Trial())
