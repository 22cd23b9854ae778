"""A vector per series: nothing but static channels whose values are learned, for every architecture."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.config import NETWORK_CONFIG_ADAPTER
from models.forecaster import Forecaster, ForecastInputs
from models.registry import build_forecaster
from models.series import UNKNOWN_SHARE, SeriesEmbedding
from training.gradients.norms import GradientNorms
from training.gradients.trace import dropout_off

ARCHITECTURES = ("linear", "rnn", "gru", "lstm", "mingru", "segrnn", "dilated_lstm")
LENGTH, HORIZON, SIZE, SERIES = 12, 4, 3, 5
ROOM = {"linear": {}, "segrnn": {"hidden_size": 6, "segment_length": 4}, "dilated_lstm": {"hidden_size": 6, "dilations": (2,)}}


def network(architecture: str, **settings: object) -> Forecaster:
    torch.manual_seed(0)
    sizes = {"context_length": LENGTH, "horizon": HORIZON, "num_past_covariates": 1, "num_future_covariates": 1}
    described = {"architecture": architecture, **sizes, **ROOM.get(architecture, {"hidden_size": 6}), **settings}
    return build_forecaster(NETWORK_CONFIG_ADAPTER.validate_python(described)).double()


def windows(static: Tensor) -> ForecastInputs:
    generator, count = torch.Generator().manual_seed(1), len(static)
    context, past = (torch.randn(*shape, generator=generator).double() for shape in ((count, LENGTH), (count, LENGTH, 1)))
    future = torch.randn(count, HORIZON, 1, generator=generator).double()
    return ForecastInputs(context, torch.ones(count, LENGTH, dtype=torch.bool), past, future, static.double())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_vector_is_static_covariates_of_the_same_values(architecture: str) -> None:
    """The twin reads the vectors as covariates: same forecast, and a row's gradient is the sum over its windows."""
    own = network(architecture, num_static_covariates=2, series_embedding=SIZE, num_series=SERIES).eval()
    with torch.no_grad():
        own.series_embedding.weight.copy_(torch.randn(SERIES + 1, SIZE))
    twin = network(architecture, num_static_covariates=1 + SIZE).eval()
    weights = {name: value for name, value in own.state_dict().items() if name != "series_embedding.weight"}
    twin.load_state_dict(twin.state_dict() | {name: value for name, value in weights.items() if "static" not in name})
    numbers, other = torch.tensor([2, 0, 2, 5]), torch.randn(4, 1)
    vectors = own.series_embedding.weight.detach()[numbers].requires_grad_()
    expected = twin(windows(torch.cat((other, vectors.float()), dim=1))._replace(
        static_covariates=torch.cat((other.double(), vectors), dim=1)))  # fmt: skip
    actual = own(windows(torch.cat((other, numbers[:, None]), dim=1)))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    [table] = torch.autograd.grad(actual.sin().sum(), [own.series_embedding.weight])
    [rows] = torch.autograd.grad(expected.sin().sum(), [vectors])
    by_hand = torch.zeros(SERIES + 1, SIZE).double().index_add(0, numbers, rows)
    torch.testing.assert_close(table, by_hand, rtol=0, atol=1e-12)


def test_a_number_that_no_series_has_is_the_unknown_series() -> None:
    """Beyond the table there is nothing to look up; what lies outside is brought back to its ends."""
    embedding = SeriesEmbedding(SERIES, SIZE).eval()
    with torch.no_grad():
        embedding.weight.copy_(torch.arange(6.0)[:, None].expand(-1, SIZE))
    found = embedding(torch.tensor([[7.0, 0.0], [7.0, 3.0], [7.0, -2.0]]))
    assert found[:, 0].tolist() == [7.0, 7.0, 7.0]
    assert found[:, 1].tolist() == [0.0, 3.0, 0.0]


def test_some_windows_are_trained_without_their_name_and_none_is_measured_so() -> None:
    """A tenth, drawn as dropout is; instruments and forecasts see every name."""
    torch.manual_seed(0)
    embedding = SeriesEmbedding(1, 1)
    with torch.no_grad():
        embedding.weight.copy_(torch.tensor([[0.0], [1.0]]))
    shown = embedding(torch.ones(20_000, 1))
    assert set(shown.detach().flatten().tolist()) == {0.0, 1.0}
    assert float(shown.detach().mean()) == pytest.approx(1.0 - UNKNOWN_SHARE, abs=0.01)
    with dropout_off(embedding):
        assert bool((embedding(torch.ones(1000, 1)) == 1.0).all())
    assert bool((embedding.eval()(torch.ones(1000, 1)) == 1.0).all())


def test_the_table_has_a_norm_of_its_own() -> None:
    """Under its name, beside the layers."""
    own = network("lstm", num_static_covariates=1, series_embedding=SIZE, num_series=SERIES)
    own.forward_scaled(windows(torch.ones(4, 1))).prediction.sum().backward()
    norms = GradientNorms(own)
    named = norms.named(norms.measure().tolist())
    assert named["grad_norm/series_embedding"] == pytest.approx(float(own.series_embedding.weight.grad.norm()))
    assert named["grad_norm/series_embedding"] > 0


@pytest.mark.parametrize(
    "wrong", [{"series_embedding": 2}, {"num_series": 3}, {"series_embedding": 2, "num_series": 3, "num_static_covariates": 0}]
)
def test_vectors_without_series_are_refused(wrong: dict[str, int]) -> None:
    """Length, number and the channel that names the series belong together."""
    with pytest.raises(ValidationError, match="must come together"):
        network("lstm", **({"num_static_covariates": 1} | wrong))
