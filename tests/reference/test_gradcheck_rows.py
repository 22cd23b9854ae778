"""`run_gradcheck`: what it covers, how exact it is, and that it notices what is wrong."""

from __future__ import annotations

import json
import math
from typing import get_args

import numpy as np
import pytest
import torch

from models.config import AnyNetworkConfig, LinearConfig, LSTMConfig, ScalerName
from models.errors import NetworkConfigError
from models.recurrent import RecurrentEncoder
from models.scaling import build_scaler
from training.gradcheck import (
    ARCHITECTURES,
    GradcheckRow,
    TensorError,
    Tolerance,
    check,
    format_gradcheck,
    run_gradcheck,
    scalers,
)
from training.gradcheck.cells import LSTMCell, StepGradient
from training.gradcheck.finite_differences import (
    directional_derivatives,
    elementwise_error,
    probe_directions,
    relative_error,
)


@pytest.fixture(scope="module")
def rows():
    return run_gradcheck(seed=0)


def small_lstm() -> LSTMConfig:
    sizes = {"hidden_size": check.HIDDEN_SIZE, "num_layers": 1}
    return LSTMConfig(context_length=check.CONTEXT_LENGTH, horizon=check.HORIZON, **sizes)


def test_every_gradient_is_exact(rows):
    """Autograd is within 1e-6 of finite differences and within 1e-10 of the hand-derived gradient, everywhere."""
    assert all(row.passed for row in rows), format_gradcheck(rows)
    assert max(row.max_relative_error_finite_difference for row in rows) < 1e-6
    assert max(row.max_relative_error_hand_derived for row in rows) < 1e-10


def test_every_architecture_of_the_registry_is_covered(rows):
    """No network can be added to the registry without its gradient being checked at depth 1 and 2."""
    union = get_args(AnyNetworkConfig)[0]
    registered = {config.model_fields["architecture"].default for config in get_args(union)}
    assert registered == set(ARCHITECTURES)
    labels = {row.architecture for row in rows}
    names = (
        "rnn tanh", "rnn relu", "gru", "lstm", "mingru", "minlstm", "segrnn", "dilated_rnn", "dilated_gru", "dilated_lstm",
    )  # fmt: skip
    recurrent = {f"{name}, {depth}" for name in names for depth in ("1 layer", "2 layers")}
    assert labels == {"linear"} | recurrent
    assert {row.what.split(",")[0] for row in rows if row.architecture == "lstm, 2 layers"} == {"encoder", "forecaster"}


def test_every_scaler_and_loss_is_covered(rows):
    """Each per-window scaler and each loss of the configuration appears in a whole-forecaster check."""
    text = " ".join(row.what for row in rows)
    assert all(f"{scaler} scaler" in text for scaler in get_args(ScalerName))
    assert all(f"{loss} loss" in text for loss in ("quantile", "mae", "mse", "huber", "frequency"))


def test_encoder_row_covers_inputs_initial_states_weights_and_biases(rows):
    """The bare encoder is differentiated with respect to everything that goes into it."""
    row = next(row for row in rows if (row.architecture, row.what) == ("lstm, 2 layers", "encoder"))
    weights = {f"layers.{i}.{name}_l0" for i in (0, 1) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    states = {f"initial_{name}.{i}" for i in (0, 1) for name in "hc"}
    assert {tensor.name for tensor in row.tensors} == {"inputs"} | weights | states


def test_a_wrong_derivation_fails_against_autograd_but_not_against_differences(monkeypatch):
    """If a formula of ours were wrong, the column by hand would say so and name the tensor."""
    right = LSTMCell.backward

    def forgetful(self, d_state, saved) -> StepGradient:
        gradient = right(self, d_state, saved)
        return gradient._replace(state=(gradient.state[0], gradient.state[1] * (1 + 1e-8)))

    monkeypatch.setattr(LSTMCell, "backward", forgetful)
    row = check.check_encoder(small_lstm(), torch.Generator().manual_seed(0))

    assert not row.passed
    assert row.max_relative_error_finite_difference < 1e-6
    assert 1e-10 < row.max_relative_error_hand_derived < 1e-7
    assert "FAILED: " + row.worst.name in format_gradcheck([row])


def test_a_wrong_automatic_gradient_fails_against_both(monkeypatch):
    """If the network's gradient were wrong, as a detached state makes it, both columns would say so."""
    right = RecurrentEncoder.forward

    def detached(self, inputs, states=None, truncation_steps=None):
        outputs, final = right(self, inputs, states, truncation_steps)
        return type(right(self, inputs, states))(outputs, [tuple(part.detach() for part in state) for state in final])

    monkeypatch.setattr(RecurrentEncoder, "forward", detached)
    row = check.check_encoder(small_lstm(), torch.Generator().manual_seed(0))

    assert row.max_relative_error_finite_difference > 1e-3
    assert row.max_relative_error_hand_derived > 1e-3


def test_the_check_leaves_the_global_generator_alone():
    """Random numbers drawn after a check are those that would have been drawn without it."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run_gradcheck(["linear"])
    assert torch.equal(torch.rand(2), expected)


def test_an_unknown_architecture_is_refused_before_any_work():
    """A misspelt architecture is answered with the possible ones."""
    with pytest.raises(NetworkConfigError, match=r"linear, rnn, gru, lstm.*'lstn'"):
        run_gradcheck(["lstm", "lstn"])


def test_rows_are_strict_json():
    """Numbers survive a round trip through JSON, and an infinite error becomes null instead of breaking the document."""
    broken = GradcheckRow("lstm, 1 layer", "encoder", (TensorError("inputs", math.inf, 3e-15, math.nan),))

    document = json.loads(json.dumps(broken.to_dict(), allow_nan=False))

    assert document["passed"] is False
    assert document["max_relative_error_finite_difference"] is None
    assert document["max_relative_error_hand_derived"] == 3e-15
    assert document["tolerance"] == {"finite_difference": 1e-6, "hand_derived": 1e-10}
    assert document["tensors"][0]["name"] == "inputs"


def test_an_error_that_is_no_number_never_passes():
    """Not-a-number is not below the tolerance, wherever among the tensors it stands."""
    good, bad = TensorError("a", 1e-9, 1e-15, 1e-15), TensorError("b", 1e-9, math.nan, math.nan)
    assert not GradcheckRow("gru", "encoder", (good, bad)).passed
    assert not GradcheckRow("gru", "encoder", (bad, good)).passed


def test_the_table_ends_with_the_largest_errors_and_the_verdict(rows):
    """The last sentence carries both maxima, both tolerances and the verdict, in lines that fit a terminal."""
    text = format_gradcheck(rows)
    largest = max(row.max_relative_error_finite_difference for row in rows)
    assert f"{largest:.1e} against central finite differences (tolerance 1e-06)" in text
    assert text.endswith(f"float64: all {len(rows)} checks passed.")
    assert max(map(len, text.splitlines())) <= 120
    assert format_gradcheck([]) == "Nothing was checked."


def test_the_worst_tensor_is_judged_by_its_own_tolerance():
    """1e-9 is far from 1e-6 but far beyond 1e-10: the second is the worse."""
    differences, by_hand = TensorError("a", 1e-9, 0.0, 0.0), TensorError("b", 0.0, 1e-9, 1e-9)
    row = GradcheckRow("gru", "encoder", (differences, by_hand), Tolerance(1e-6, 1e-10))
    assert row.worst.name == "b"


def test_central_differences_of_a_cubic():
    """Along e_0 the derivative of x^3 + 5y at (2, 1) is 12; the tensor is left as it was."""
    point = torch.tensor([2.0, 1.0], dtype=torch.float64)
    slopes = directional_derivatives(lambda: point[0] ** 3 + 5 * point[1], point, torch.eye(2, dtype=torch.float64))
    assert slopes.tolist() == pytest.approx([12.0, 5.0], rel=1e-9)
    assert point.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("distance", [3e-6, 6e-6, 9e-6, 4e-7])
def test_differences_come_closer_when_a_kink_is_near(distance):
    """|x| has slope 1 right of zero, also where the first step would reach across."""
    point = torch.tensor([distance], dtype=torch.float64)
    slope = directional_derivatives(lambda: point.abs().sum(), point, torch.ones(1, 1, dtype=torch.float64))
    assert slope.item() == pytest.approx(1.0, rel=1e-8)


def test_the_mixed_direction_sees_an_error_in_any_entry():
    """A gradient wrong in one of 1,000 entries has another derivative along the first direction."""
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = probe_directions(gradient, torch.Generator().manual_seed(1))
    wrong = gradient.clone()
    wrong[123] += 0.1
    assert torch.allclose(directions.norm(dim=1), torch.ones(len(directions), dtype=torch.float64))
    assert relative_error((directions @ wrong)[:1], (directions @ gradient)[:1]) > 1e-6
    assert probe_directions(torch.zeros(1, dtype=torch.float64), torch.Generator()).isfinite().all()


def test_relative_errors_worked_by_hand():
    """(3, 4) against (3, 4.5): the norms say 0.5 / 5.408, the worst entry 0.5 / 4.5; zeros agree, NaN never does."""
    one, other = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert relative_error(one, other) == pytest.approx(0.5 / math.hypot(3.0, 4.5))
    assert elementwise_error(one, other) == pytest.approx(0.5 / 4.5)
    zeros = torch.zeros(2)
    assert relative_error(zeros, zeros) == elementwise_error(zeros, zeros) == 0.0
    assert relative_error(one, zeros) == 1.0
    assert relative_error(one, torch.tensor([3.0, math.nan])) == math.inf
    assert elementwise_error(one, torch.tensor([3.0, math.nan])) == math.inf


@pytest.mark.parametrize("name", get_args(ScalerName))
def test_hand_derived_scalers_have_the_networks_statistics(name):
    """Level and scale of the hand-written scalers are those of the network's, with gaps in the window."""
    context = 10 + 2 * torch.randn(4, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    observed = torch.ones(4, 9, dtype=torch.bool)
    observed[0, :3] = observed[1, -1] = observed[2, 4] = False

    by_hand = scalers.window_statistics(name, context.numpy(), observed.numpy())

    window = build_scaler(name)(context, observed)
    np.testing.assert_allclose(by_hand.loc, window.loc.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(by_hand.scale, window.scale.detach().numpy(), rtol=1e-13)


def test_robust_scaler_falls_back_to_the_deviation_for_mostly_constant_windows():
    """Five equal values and one spike have no interquartile range; a tenth of the deviation is the scale, and moves."""
    context = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 7.0]], dtype=torch.float64, requires_grad=True)
    observed = torch.ones(1, 6, dtype=torch.bool)

    by_hand = scalers.window_statistics("robust", context.detach().numpy(), observed.numpy())

    scale = build_scaler("robust")(context, observed).scale
    assert by_hand.scale.item() == pytest.approx(scale.item()) == pytest.approx(0.1 * math.sqrt(5.0))
    (gradient,) = torch.autograd.grad(scale.sum(), context)
    np.testing.assert_allclose(by_hand.d_scale, gradient.numpy(), rtol=1e-12, atol=1e-15)


def test_a_window_without_spread_has_no_derivation():
    """Where the scale is floored another derivative holds; the check says so instead of dividing by zero."""
    flat = np.ones((1, 4))
    with pytest.raises(ValueError, match="window 0 must have a spread"):
        scalers.window_statistics("standard", flat, np.ones((1, 4), dtype=bool))


@pytest.mark.parametrize("config_class", [LinearConfig, LSTMConfig])
def test_forecasters_without_covariates_are_checked_too(config_class):
    """A network that reads `y` alone has no covariate weights, and the same exact gradient otherwise."""
    extra = {} if config_class is LinearConfig else {"hidden_size": check.HIDDEN_SIZE}
    config = config_class(context_length=check.CONTEXT_LENGTH, horizon=check.HORIZON, **extra)
    row = check.check_forecaster(config, torch.Generator().manual_seed(0))
    assert row.passed, row.worst


def test_what_a_network_does_not_read_has_gradient_zero_three_times(rows):
    """The linear network ignores past covariates: autograd, differences and the derivation agree on zero exactly."""
    tensors = {tensor.name: tensor for tensor in rows[0].tensors}
    assert rows[0].architecture == "linear"
    assert tensors["past_covariates"] == TensorError("past_covariates", 0.0, 0.0, 0.0)
    assert tensors["future_covariates"].finite_difference > 0.0
