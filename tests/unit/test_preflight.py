"""Before the first step: what is measured, what is said, and that nothing is touched."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from training.config import TrainingConfig, load_config
from training.data_need import NO_NEED, find_need, longest_lag, steps_to_cover
from training.fit_cost import measure_cost
from training.gradients.need import Need
from training.initial_reach import LayerReach
from training.preflight import Preflight, candidates, preflight, preflight_notes, with_settings
from training.preflight_text import duration, number, ratio, size
from training.preparation import Prepared, prepare
from training.start_choice import choose_initialization

NEED = 40


@pytest.fixture(scope="module")
def delayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Integer time; y repeats what was 40 steps before, with noise: nothing nearer tells anything."""
    random = np.random.default_rng(0)
    y = random.standard_normal(3000)
    for step in range(NEED, len(y)):
        y[step] += 0.95 * y[step - NEED]
    path = tmp_path_factory.mktemp("delayed") / "delayed.csv"
    pd.DataFrame({"unique_id": "a", "ds": np.arange(len(y)), "y": y}).to_csv(path, index=False)
    return path


def config_for(path: Path, *overrides: str) -> TrainingConfig:
    small = ("data.season_length=1", "model.horizon=4", "model.hidden_size=32", "fit.batch_size=16", "fit.max_steps=50")
    return load_config(None, [f"data.path={path}", *small, *overrides])


def weights(prepared: Prepared) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in prepared.forecaster.state_dict().items()}


# --- choices -------------------------------------------------------------------------------------------------------


def test_context_covers_the_need_and_initialization_reaches_it(delayed: Path) -> None:
    """The need of 40 is found, the context holds it, torch's start is measured first and does not reach."""
    prepared = prepare(config_for(delayed, "gradients.need_steps=40", "model.horizon=24"))
    assert prepared.need == Need(40, "declared")
    assert prepared.config.model.context_length == 48
    prepared = prepare(config_for(delayed, "model.context_length=64"))
    assert prepared.need is not None
    assert 36 <= prepared.need.steps <= 44
    assert prepared.need.is_shown
    note = next(note for note in prepared.notes if note.startswith("model.initialization"))
    assert prepared.config.model.initialization in ("forget_bias", "chrono")
    assert f"need is {prepared.need.steps} steps, torch reaches " in note


@pytest.mark.parametrize(
    ("architecture", "need", "skip", "expected"),
    [
        ("lstm", 8, "none", "torch"),  # reached without any change
        ("lstm", 60, "none", "chrono"),  # beyond a forget bias of 1
        ("gru", 60, "none", "chrono"),
        ("gru", 60, "linear", "forget_bias"),  # the skip sees as far as chrono would
        ("rnn", 60, "none", "orthogonal"),  # none reaches: the farthest
        ("linear", 60, "none", "torch"),  # no recurrence
    ],
)
def test_the_smallest_change_that_reaches_is_chosen(
    delayed: Path, architecture: str, need: int, skip: str, expected: str
) -> None:
    """Reach is not accuracy: never more of it than the need asks for."""
    config = config_for(
        delayed, f"model.architecture={architecture}", f"gradients.need_steps={need}", "model.context_length=64",
        f"model.skip={skip}",
    )  # fmt: skip
    prepared = prepare(config)
    assert prepared.config.model.initialization == expected
    note = next(note for note in prepared.notes if note.startswith("model.initialization"))
    assert ("none reaches it" in note) == (architecture == "rnn" or skip == "linear")


def test_what_the_user_wrote_stays(delayed: Path) -> None:
    """An explicit context and initialization are not touched, whatever the need."""
    written = ("gradients.need_steps=60", "model.context_length=20", "model.initialization=torch", "model.skip=none")
    prepared = prepare(config_for(delayed, *written))
    assert (prepared.config.model.context_length, prepared.config.model.initialization) == (20, "torch")
    assert not any(note.startswith("model.") for note in prepared.notes)


@pytest.mark.parametrize(
    ("written", "skip"),
    [
        ((), "linear"),
        (("model.architecture=gru",), "linear"),
        (("model.architecture=rnn",), "none"),
        (("model.forget_bias=-3",), "none"),
        (("model.num_layers=8",), "none"),
        (("fit.tbptt_steps=4",), "none"),
        (("model.forget_bias=-3", "model.skip=linear"), "linear"),
    ],
)
def test_the_recurrence_gets_company_where_it_is_left_alone(delayed: Path, written: tuple[str, ...], skip: str) -> None:
    """Whoever sets how it starts, ends or is stacked sees what it does alone, unless told otherwise."""
    assert prepare(config_for(delayed, "gradients.need_steps=6", *written)).config.model.skip == skip


@pytest.mark.parametrize("initialization", ["null", "torch", "chrono"])
def test_the_network_is_what_its_seed_and_configuration_give(delayed: Path, initialization: str) -> None:
    """Probing other starts moves no random number: weights and generator are those of the seed and a plain build."""
    prepared = prepare(config_for(delayed, f"model.initialization={initialization}", "fit.seed=3"))
    after = torch.get_rng_state()
    again = prepare(prepared.config)  # nothing left to choose, so nothing is probed
    assert torch.equal(after, torch.get_rng_state())
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(prepared).items())
    assert again.need == prepared.need


def test_need_is_skipped_where_nobody_asks(delayed: Path) -> None:
    """Not for a linear network; nor without instruments when nothing is left to choose."""
    assert prepare(config_for(delayed, "model.architecture=linear")).need is None
    silent = ("gradients.preset=off", "model.context_length=8")
    assert prepare(config_for(delayed, *silent, "model.initialization=torch")).need is None
    assert prepare(config_for(delayed, *silent)).need is not None


@pytest.mark.parametrize("values", [np.zeros(60), np.arange(60.0), np.where(np.arange(60) % 2, np.nan, 1e30)])
def test_no_data_breaks_the_estimate(tmp_path: Path, values: np.ndarray) -> None:
    """Constant, all trend, half missing and huge: a need comes out, and a network with it."""
    path = tmp_path / "odd.csv"
    pd.DataFrame({"unique_id": "a", "ds": np.arange(len(values)), "y": values}).to_csv(path, index=False)
    prepared = prepare(config_for(path))
    assert prepared.need is not None
    assert prepared.need.steps >= 1
    assert json.dumps(preflight(prepared).to_dict())


def test_too_short_to_split_means_no_need(delayed: Path) -> None:
    """The estimate never ends a run; what is wrong with the data is said by the split."""
    prepared = prepare(config_for(delayed))
    hopeless = with_settings(prepared.config, {"data.test_size": 2999})
    assert find_need(hopeless, prepared.panel) == NO_NEED
    assert choose_initialization(hopeless, prepared.panel, 40)[0] == "torch"


def test_how_far_a_need_is_looked_for(delayed: Path) -> None:
    """Two seasons, four horizons, the context, a hundred steps; no more than half of the series or the regression bears."""
    panel = prepare(config_for(delayed)).panel
    assert longest_lag(panel, season=24, horizon=6, context=None) == 96
    assert longest_lag(panel, season=60, horizon=6, context=None) == 120
    assert longest_lag(panel, season=24, horizon=100, context=None) == 400
    assert longest_lag(panel, season=24, horizon=6, context=999) == 999
    assert longest_lag(panel, season=10_000, horizon=6, context=None) == 1500


def test_an_unshown_need_asks_for_nothing_and_a_guessed_one_for_itself() -> None:
    """A regression that found nothing counts; where there was none, the season is the best guess."""
    assert steps_to_cover(None) == 1
    assert steps_to_cover(Need(50, "ridge", (1, 50), (1.0, 0.99), {"gain": 0.01})) == 1
    assert steps_to_cover(Need(50, "ridge", (1, 50), (1.0, 0.5), {"gain": 0.5})) == 50
    assert steps_to_cover(Need(24, "season")) == 24
    assert steps_to_cover(Need(24, "declared")) == 24


# --- preflight -----------------------------------------------------------------------------------------------------


def test_preflight_touches_nothing(delayed: Path) -> None:
    """Weights, gradients, training mode, random state and threads are as they were."""
    prepared = prepare(
        config_for(delayed, "gradients.need_steps=60", "model.dropout=0.3", "model.initialization=torch")
    )
    before, state, threads = weights(prepared), torch.get_rng_state(), torch.get_num_threads()
    mode = prepared.forecaster.training
    found = preflight(prepared)
    assert found.alternatives
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert prepared.forecaster.training == mode
    assert all(parameter.grad is None for parameter in prepared.forecaster.parameters())
    assert all(torch.equal(tensor, weights(prepared)[name]) for name, tensor in before.items())


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm"])
def test_short_reach_comes_with_settings_that_reach(delayed: Path, architecture: str) -> None:
    """Each alternative, prepared and measured anew, reaches what it was said to reach."""
    config = config_for(
        delayed, f"model.architecture={architecture}", "gradients.need_steps=60", "model.context_length=64",
        "model.initialization=torch", "model.num_layers=2",
    )  # fmt: skip
    found = preflight(prepare(config))
    assert not found.reaches
    assert found.whole is not None
    assert found.whole.layer == "stack"
    assert found.whole.steps < 60
    assert "set model." in found.headline
    assert f"reaches {found.whole.steps} at its start" in found.headline
    for alternative in found.alternatives[:2]:
        again = preflight(prepare(with_settings(found.config, alternative.set)))
        assert again.reaches
        assert again.whole is not None
        assert again.whole.steps == alternative.reach_steps
        assert max(layer.p90 for layer in again.memory) == pytest.approx(alternative.memory_steps)


def test_a_window_shorter_than_the_need_is_said_first(delayed: Path) -> None:
    """Context and truncation both hide what lies further back; the smallest change lifts both."""
    written = (
        "gradients.need_steps=60",
        "model.context_length=32",
        "fit.tbptt_steps=10",
        "model.initialization=chrono",
    )
    found = preflight(prepare(config_for(delayed, *written)))
    assert (found.context_steps, found.visible_steps) == (32, 10)
    assert "training sees 10 steps" in found.headline
    assert found.alternatives[0].set == {"model.context_length": 60, "fit.tbptt_steps": None}


def test_a_start_that_reaches_needs_no_change(delayed: Path) -> None:
    """No alternatives, and the share that arrives is named."""
    found = preflight(prepare(config_for(delayed, "gradients.need_steps=60", "model.context_length=64", "model.skip=none")))
    assert found.reaches
    assert found.alternatives == ()
    assert "reaches there at its start" in found.headline


def test_an_exploding_start_is_called_so(delayed: Path) -> None:
    """A gain of 3 on a ReLU recurrence multiplies the gradient; that is no reach."""
    bad = ("model.architecture=rnn", "model.nonlinearity=relu", "model.initialization=identity", "model.init_gain=3")
    found = preflight(prepare(config_for(delayed, *bad, "gradients.need_steps=30")))
    assert found.whole is not None
    assert found.whole.explodes
    assert not found.reaches
    assert "-fold on its way back" in found.headline
    assert all(entry.set["model.init_gain"] is None for entry in found.alternatives)


def test_linear_network_has_nothing_to_vanish(delayed: Path) -> None:
    """No recurrence, no reach, no fault; memory and time all the same."""
    found = preflight(prepare(config_for(delayed, "model.architecture=linear")))
    assert (found.reaches, found.layers, found.whole) == (True, (), None)
    assert "no recurrence" in found.headline
    assert found.to_dict()["reach_steps"] is None
    assert found.cost.time is not None


def test_a_first_step_that_fails_is_said_instead_of_a_time(delayed: Path) -> None:
    """A weight that is not a number leaves no loss; preflight says so and does not raise."""
    prepared = prepare(config_for(delayed))
    with torch.no_grad():
        next(prepared.forecaster.parameters()).fill_(math.nan)
    found = preflight(prepared)
    assert found.cost.time is None
    assert "first step fails" in found.describe()
    assert "first step fails" in found.notes()[-1]


def test_memory_counts_what_a_fit_holds(delayed: Path) -> None:
    """Weights once each for themselves and their gradient, twice for Adam; activations grow with batch and context."""

    def memory(*overrides: str):
        return measure_cost(prepare(config_for(delayed, "model.context_length=48", *overrides))).memory

    adam = memory("fit.batch_size=512")
    assert adam.gradients == adam.weights
    assert adam.optimizer == 2 * adam.weights
    assert adam.total == adam.weights + adam.gradients + adam.optimizer + adam.activations + adam.panel
    assert memory("optimizer.name=sgd", "optimizer.momentum=0.9").optimizer == adam.weights
    assert memory("optimizer.name=sgd").optimizer == 0
    double = memory("fit.batch_size=1024")
    assert double.activations == pytest.approx(2 * adam.activations, rel=0.01)
    # Per step and unit an LSTM saves gates, states and its kernel's workspace: some sixteen numbers of four bytes.
    per_unit = adam.activations / (512 * 48 * 32 * 4)
    assert 8 < per_unit < 40


def test_time_is_steps_looks_and_checks(delayed: Path) -> None:
    """Fifty steps, nine of them logged, a look at every twelfth and before the first, and one check."""
    time = measure_cost(prepare(config_for(delayed))).time
    assert time is not None
    assert (time.is_measured, time.num_threads) == (True, torch.get_num_threads())
    assert time.updates == pytest.approx(50 * time.step + 9 * time.logged + 4 * time.look)
    assert time.fit == pytest.approx(time.updates + time.look + time.check)
    assert min(time.step, time.logged, time.look, time.check, time.processor) > 0


def test_a_fit_without_instruments_does_not_pay_for_them(delayed: Path) -> None:
    """With the preset off nothing is looked at; a final fit may take as many steps again."""
    time = measure_cost(prepare(config_for(delayed, "gradients.preset=off", "fit.final=true"))).time
    assert time is not None
    assert (time.logged, time.look) == (0, 0)
    assert time.fit == pytest.approx(100 * time.step + 2 * time.check)


def test_document_and_page_carry_the_same_numbers(delayed: Path) -> None:
    """JSON without anything that JSON lacks the words for once infinities are taken out; the page names every layer."""
    found = preflight(prepare(config_for(delayed, "model.num_layers=2", "gradients.need_steps=60")))
    document = found.to_dict()
    assert document["need"]["steps"] == document["need_steps"] == 60
    assert document["reach_steps"] == found.whole.steps
    assert [layer["layer"] for layer in document["layers"]] == ["lstm.0", "lstm.1", "stack"]
    assert set(document["spectral_radius"]) == {"lstm.0", "lstm.1"}
    page = found.describe()
    assert all(layer.layer in page for layer in found.layers)
    assert page.startswith(found.headline)
    notes = preflight_notes(prepare(found.config))
    assert notes[0] == f"preflight: {found.headline}"
    assert all(len(note) < 300 for note in notes)


def test_candidates_go_from_small_changes_to_large() -> None:
    """Initializations of the same cell first, then other cells; a bias set by hand is lifted."""
    config = load_config(None, ["model.architecture=gru", "model.context_length=64", "model.initialization=torch"])
    changes = list(candidates(config, 60))
    assert changes[0] == {"model.initialization": "forget_bias"}
    assert changes[1] == {"model.initialization": "chrono"}
    architectures = [change.get("model.architecture", "gru") for change in changes]
    assert architectures == sorted(architectures, key=["gru", "lstm"].index)
    biased = with_settings(config, {"model.forget_bias": -3.0})
    assert next(candidates(biased, 60)) == {"model.forget_bias": None}


def test_candidates_of_a_mean_let_the_recurrence_see_the_need_and_leave_what_other_networks_have_not() -> None:
    """Every one of them is a configuration that loads."""
    settings = ["architecture=segrnn", "context_length=64", "recurrent_length=24", "linear_share=0.5", "segment_length=8"]
    config = load_config(None, [f"model.{setting}" for setting in (*settings, "initialization=torch")])
    changes = list(candidates(config, 60))
    assert changes[0] == {"model.recurrent_length": None}
    networks = [with_settings(config, change).model for change in changes]
    assert {model.architecture for model in networks} == {"segrnn", "lstm", "gru"}
    assert all(bool(model.linear_share) is (model.architecture == "segrnn") for model in networks)


def test_numbers_that_are_none_are_said_as_such() -> None:
    """NaN and infinity reach no sentence as `nan` or `inf`."""
    nothing = LayerReach("lstm.0", 0, math.nan, math.nan, math.nan)
    assert not nothing.explodes
    assert not nothing.reaches(1)
    assert (ratio(math.nan), number(math.inf), number(math.nan)) == ("nothing measurable", "no end", "none")
    assert (ratio(0.21), ratio(2e-9), ratio(3e5)) == ("0.21", "2e-09", "3e+05")
    assert (size(999), size(1_500_000), size(66_000_000_000)) == ("999 B", "1.5 MB", "66 GB")
    assert [duration(value) for value in (0.0004, 0.02, 3.04, 58.2, 600.0, 9000.0)] == [
        "0.4 ms", "20 ms", "3.0 s", "58 s", "10 min", "2.5 h",
    ]  # fmt: skip


def test_found_is_a_preflight(delayed: Path) -> None:
    """Fields that rules read: static memory per layer with its source, and reach per layer."""
    found = preflight(prepare(config_for(delayed)))
    assert isinstance(found, Preflight)
    assert [memory.source for memory in found.memory] == ["forget bias"]
    assert [layer.layer for layer in found.layers] == ["lstm.0"]
