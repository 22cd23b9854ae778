"""How the recurrence starts."""

from __future__ import annotations

import pytest
import torch

from models.config import GRUConfig, LSTMConfig, RNNConfig
from models.errors import NetworkConfigError
from models.initialization import GATES, gate_rows
from models.recurrent import RecurrentEncoder

SIZES = {"context_length": 100, "horizon": 4, "hidden_size": 64, "num_layers": 2}


def total_bias(layer: torch.nn.LSTM, architecture: str, gate: str) -> torch.Tensor:
    """Sum of both biases of a gate."""
    rows = gate_rows(architecture, gate, layer.hidden_size)
    return (layer.bias_ih_l0[rows] + layer.bias_hh_l0[rows]).detach()


def test_forget_bias_sets_the_keep_gate_to_one_and_nothing_else() -> None:
    """Both layers of an LSTM: forget bias 1; the other gates keep torch's small biases."""
    torch.manual_seed(0)
    for layer in RecurrentEncoder(LSTMConfig(**SIZES, initialization="forget_bias"), 3).layers:
        assert torch.equal(total_bias(layer, "lstm", "forget"), torch.ones(64))
        assert total_bias(layer, "lstm", "input").abs().max() <= 2 / 8


def test_chrono_spreads_time_constants_over_the_context() -> None:
    """exp(b_f) lies in [1, L-1], its mean near the middle, and b_i = -b_f."""
    torch.manual_seed(0)
    layer = RecurrentEncoder(
        LSTMConfig(**SIZES | {"hidden_size": 2000, "num_layers": 1}, initialization="chrono"), 3
    ).layers[0]
    forget = total_bias(layer, "lstm", "forget")
    assert forget.exp().min() >= 1.0 - 1e-4
    assert forget.exp().max() <= 99.0 + 1e-2
    assert forget.exp().mean().item() == pytest.approx(50.0, rel=0.05)
    assert torch.equal(total_bias(layer, "lstm", "input"), -forget)


def test_chrono_opens_the_update_gate_of_a_gru() -> None:
    """The update gate keeps the state: h' = (1 - z) n + z h."""
    torch.manual_seed(0)
    layer = RecurrentEncoder(GRUConfig(**SIZES, initialization="chrono"), 3).layers[0]
    assert (total_bias(layer, "gru", "update") >= -1e-6).all()
    assert torch.equal(total_bias(layer, "gru", "reset"), torch.zeros(64))


@pytest.mark.parametrize(
    "config", [RNNConfig(**SIZES, initialization="orthogonal"), LSTMConfig(**SIZES, initialization="orthogonal")]
)
def test_orthogonal_matrices_keep_lengths(config: RNNConfig | LSTMConfig) -> None:
    """Every recurrent matrix, gate by gate, is orthogonal."""
    for layer in RecurrentEncoder(config, 3).layers:
        for matrix in layer.weight_hh_l0.detach().split(64):
            torch.testing.assert_close(matrix @ matrix.T, torch.eye(64), atol=1e-5, rtol=0)


def test_identity_starts_as_a_sum() -> None:
    """An identity rnn with relu adds up its inputs (Le et al. 2015)."""
    encoder = RecurrentEncoder(
        RNNConfig(**SIZES | {"num_layers": 1}, nonlinearity="relu", initialization="identity"), 1
    )
    with torch.no_grad():
        encoder.layers[0].weight_ih_l0.fill_(1.0)
        outputs = encoder(torch.tensor([[[1.0], [2.0], [3.0]]])).outputs
    assert outputs[0, :, 0].tolist() == [1.0, 3.0, 6.0]


def test_a_bad_idea_can_be_expressed() -> None:
    """Gain 1.3 and forget bias -3 are set as asked."""
    torch.manual_seed(0)
    plain = RecurrentEncoder(LSTMConfig(**SIZES), 3).layers[0]
    torch.manual_seed(0)
    bad = RecurrentEncoder(LSTMConfig(**SIZES, init_gain=1.3, forget_bias=-3.0), 3).layers[0]
    torch.testing.assert_close(bad.weight_hh_l0, plain.weight_hh_l0 * 1.3)
    assert torch.equal(total_bias(bad, "lstm", "forget"), torch.full((64,), -3.0))


@pytest.mark.parametrize("initialization", ["forget_bias", "chrono"])
def test_an_rnn_has_no_gate_to_bias(initialization: str) -> None:
    """The error names the possible ones."""
    with pytest.raises(NetworkConfigError, match="orthogonal"):
        RecurrentEncoder(RNNConfig(**SIZES, initialization=initialization), 3)


def test_gate_order_is_torchs() -> None:
    """Only the forget rows matter for forgetting: closing them makes the cell memoryless."""
    assert GATES["lstm"] == ("input", "forget", "cell", "output")
    encoder = RecurrentEncoder(LSTMConfig(**SIZES | {"num_layers": 1}, forget_bias=-1e4), 1)
    impulse = torch.zeros(1, 6, 1)
    impulse[0, 0] = 1.0
    with torch.no_grad():
        encoder.layers[0].weight_hh_l0.zero_()
        with_impulse, without = encoder(impulse).outputs, encoder(torch.zeros(1, 6, 1)).outputs
    assert not torch.equal(with_impulse[:, 0], without[:, 0])
    assert torch.equal(with_impulse[:, 1:], without[:, 1:])
