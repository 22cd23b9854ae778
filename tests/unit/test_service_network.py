"""The network as it is served: quicker, and the same to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from app.services import fused_lstm, network
from app.services.fused_lstm import FusedLSTM, fuse_lstm
from app.services.network import ServingNetwork
from models.config import GRUConfig, LSTMConfig
from models.forecaster import Forecaster, ForecastInputs
from models.registry import build_forecaster

needs_layout = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_reorder_mkldnn_rnn_layer_weight"), reason="this torch lays no weights out"
)


def lstm_forecaster(**config: int) -> Forecaster:
    torch.manual_seed(0)
    return build_forecaster(LSTMConfig(context_length=12, horizon=3, **config)).eval()


def windows(count: int) -> ForecastInputs:
    torch.manual_seed(1)
    mask = torch.rand(count, 12) > 0.2
    no_past, no_future = torch.zeros(count, 12, 0), torch.zeros(count, 3, 0)
    return ForecastInputs(torch.randn(count, 12) + 5, mask, no_past, no_future, torch.zeros(count, 0))


@needs_layout
@pytest.mark.parametrize("sizes", [(1, 96, 2, 64), (3, 50, 6, 33), (64, 7, 1, 128), (512, 3, 5, 8)])
def test_the_fused_layer_gives_the_bits_of_torch(sizes: tuple[int, int, int, int]) -> None:
    """Outputs and both states, for any number of windows and steps, from states that are not zero."""
    count, steps, channels, units = sizes
    torch.manual_seed(0)
    layer = nn.LSTM(channels, units, batch_first=True).eval()
    inputs, state = torch.randn(count, steps, channels), (torch.randn(1, count, units), torch.randn(1, count, units))
    with torch.inference_mode():
        expected, (hidden, cell) = layer(inputs, state)
        outputs, (last_hidden, last_cell) = FusedLSTM(layer)(inputs, state)
    assert torch.equal(outputs, expected)
    assert torch.equal(last_hidden, hidden)
    assert torch.equal(last_cell, cell)


@needs_layout
def test_every_layer_is_replaced_and_no_other_kind() -> None:
    """Both layers of a stack; a GRU, or an LSTM of several layers in one, stays."""
    stack = lstm_forecaster(hidden_size=8, num_layers=2)
    assert fuse_lstm(stack)
    assert [type(layer) for layer in stack.encoder.layers] == [FusedLSTM, FusedLSTM]  # type: ignore[union-attr]
    others = nn.ModuleList([nn.GRU(2, 4, batch_first=True), nn.LSTM(2, 4, num_layers=2, batch_first=True), nn.LSTM(2, 4)])
    assert not fuse_lstm(others)
    assert [type(layer) for layer in others] == [nn.GRU, nn.LSTM, nn.LSTM]


@needs_layout
def test_the_served_lstm_is_the_fused_one_with_the_bits_of_the_plain_one() -> None:
    """One graph serves all versions of an architecture, each with its own weights."""
    for seed in range(2):
        forecaster = lstm_forecaster(hidden_size=16)
        with torch.no_grad():
            next(forecaster.parameters()).add_(seed)
        served = ServingNetwork(copy.deepcopy(forecaster))
        assert served.is_traced
        for count in (1, 5, 40):
            with torch.inference_mode():
                expected = forecaster(windows(count)).transpose(1, 2)
            torch.testing.assert_close(torch.from_numpy(served(windows(count))), expected, rtol=1e-6, atol=1e-6)
    used = [key for key, graph in network._graphs.items() if "mkldnn_rnn_layer" in str(graph.inlined_graph)]  # type: ignore[attr-defined]
    assert any('"context_length":12' in key and '"hidden_size":16' in key for key in used)


def test_a_fused_layer_with_other_bits_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that another torch changes costs the speed, not the numbers."""
    forward = FusedLSTM.forward

    def forward_off(self: FusedLSTM, inputs: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> object:
        outputs, (hidden, cell) = forward(self, inputs, state)
        return outputs, (hidden * (1 + 1e-6), cell)

    monkeypatch.setattr(network, "_graphs", {})
    monkeypatch.setattr(FusedLSTM, "forward", forward_off)
    forecaster = lstm_forecaster(hidden_size=16)
    served = ServingNetwork(forecaster)
    assert served.is_traced
    with torch.inference_mode():
        expected = forecaster(windows(9)).transpose(1, 2)
    assert torch.equal(torch.from_numpy(served(windows(9))), expected)


def test_without_the_operator_the_network_is_served_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of torch for another processor has none."""

    def absent(library: str, name: str) -> object:
        raise AttributeError(f"{library} has no {name}")

    monkeypatch.setattr(network, "_graphs", {})
    monkeypatch.setattr(fused_lstm, "_operator", absent)
    forecaster = lstm_forecaster(hidden_size=16)
    assert not fuse_lstm(copy.deepcopy(forecaster))
    served = ServingNetwork(forecaster)
    assert served.is_traced
    with torch.inference_mode():
        assert torch.equal(torch.from_numpy(served(windows(9))), forecaster(windows(9)).transpose(1, 2))


def test_a_gru_is_served_traced() -> None:
    """It has no fused layer, and needs none to be traced."""
    torch.manual_seed(0)
    forecaster = build_forecaster(GRUConfig(context_length=12, horizon=3, hidden_size=8)).eval()
    served = ServingNetwork(forecaster)
    assert served.is_traced
    with torch.inference_mode():
        expected = forecaster(windows(9)).transpose(1, 2)
    torch.testing.assert_close(torch.from_numpy(served(windows(9))), expected, rtol=1e-6, atol=1e-6)
