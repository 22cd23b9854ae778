"""The inference engine: batches, admission, deadlines, draining."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from app.errors import ProblemError
from app.services import network as network_module
from app.services.admission import Admission
from app.services.engine import InferenceEngine, forward
from app.services.metrics import ServiceMetrics
from app.services.network import ServingNetwork
from models.config import GRUConfig, LinearConfig, LSTMConfig, NetworkConfig, RNNConfig
from models.forecaster import ForecastInputs
from models.registry import build_forecaster

SOON = 30.0


def build_network(config: NetworkConfig | None = None) -> ServingNetwork:
    torch.manual_seed(0)
    return ServingNetwork(build_forecaster(config or LSTMConfig(context_length=16, horizon=5, hidden_size=8)).eval())


def build_inputs(num_windows: int, seed: int = 0) -> ForecastInputs:
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(num_windows, 16, generator=generator)
    mask = torch.rand(num_windows, 16, generator=generator) > 0.1
    return ForecastInputs(
        context, mask, torch.zeros(num_windows, 16, 0), torch.zeros(num_windows, 5, 0), torch.zeros(num_windows, 0)
    )


def row(inputs: ForecastInputs, index: int) -> ForecastInputs:
    return ForecastInputs(*(tensor[index : index + 1] for tensor in inputs))


class GatedNetwork:
    """Wraps a network; each forward pass notes its size and waits for the gate."""

    def __init__(self, inner: ServingNetwork) -> None:
        self.inner = inner
        self.seconds = math.inf
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, inputs: ForecastInputs) -> np.ndarray:
        self.sizes.append(inputs.context.shape[0])
        self.entered.set()
        self.gate.wait(10)
        if (inputs.context == 666.0).any():
            raise RuntimeError("poisoned window")
        return self.inner(inputs)


@pytest.fixture
def engine() -> Iterator[InferenceEngine]:
    engine = InferenceEngine(ServiceMetrics(), Admission(8, 6, max_wait_seconds=1.0), max_batch_windows=6)
    engine.start()
    yield engine
    engine.stop()


def later(seconds: float = SOON) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize(
    "config",
    [
        LSTMConfig(context_length=16, horizon=5),
        LSTMConfig(context_length=16, horizon=5, num_layers=2),
        GRUConfig(context_length=16, horizon=5, hidden_size=8),
        RNNConfig(context_length=16, horizon=5),
        LinearConfig(context_length=16, horizon=5),
    ],
)
def test_a_window_gets_the_same_bits_alone_and_in_a_batch(config: NetworkConfig) -> None:
    """A forecast does not depend on how many windows share its forward pass, to the bit, for every architecture."""
    network = build_network(config)
    inputs = build_inputs(37)
    together = forward(network, inputs)
    for index in (0, 1, 17, 36):
        assert np.array_equal(forward(network, row(inputs, index))[0], together[index])


@pytest.mark.parametrize("config_class", [LSTMConfig, GRUConfig, RNNConfig, LinearConfig])
def test_a_network_made_ready_forecasts_what_it_did_before(config_class: type[NetworkConfig]) -> None:
    """The traced network gives the forecaster's quantiles, horizon last, for windows it was not traced with."""
    network = build_network(config_class(context_length=16, horizon=5))
    inputs = build_inputs(23, seed=3)
    with torch.inference_mode():
        expected = network.forecaster(inputs).transpose(1, 2).numpy()
    assert network.is_traced
    np.testing.assert_allclose(network(inputs), expected, rtol=1e-6, atol=1e-6)


def test_a_network_that_cannot_be_traced_is_served_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tracer, and with one whose graph forecasts otherwise, the plain network answers."""
    inputs = build_inputs(3)
    expected = build_network()(inputs)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no tracer")

    monkeypatch.setattr(network_module, "_graphs", {})
    monkeypatch.setattr(torch.jit, "trace", refuse)
    untraced = build_network()
    monkeypatch.setattr(torch.jit, "trace", lambda forward, *_, **__: lambda *tensors: forward(*tensors) + 1.0)
    mistraced = build_network()
    for network in (untraced, mistraced):
        assert not network.is_traced
        np.testing.assert_allclose(network(inputs), expected, rtol=1e-6, atol=1e-6)


def test_versions_of_one_architecture_share_a_graph_and_keep_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch never gives back what a trace took, so a new version brings weights only; each version answers with its own."""
    graphs: dict[str, object] = {}
    monkeypatch.setattr(network_module, "_graphs", graphs)
    inputs, forecasts = build_inputs(5), []
    for seed in range(3):
        torch.manual_seed(seed)
        network = build_network()
        forecasts.append((network, network.forecaster(inputs).detach().transpose(1, 2).numpy()))
        assert network.is_traced
    assert len(graphs) == 1
    for network, expected in forecasts:
        np.testing.assert_allclose(network(inputs), expected, rtol=1e-6, atol=1e-6)


def test_works_that_wait_share_one_forward_pass(engine: InferenceEngine) -> None:
    """Whatever queued up while one pass ran is the next pass, and everyone gets their own rows."""
    network = GatedNetwork(build_network())
    inputs = build_inputs(5)

    async def ask() -> list[np.ndarray]:
        first = asyncio.create_task(engine.forecast("m", network, row(inputs, 0), later()))
        await asyncio.to_thread(network.entered.wait, 10)
        others = [
            asyncio.create_task(engine.forecast("m", network, row(inputs, index), later()))
            for index in range(1, 5)
        ]
        await asyncio.sleep(0.05)
        network.gate.set()
        return list(await asyncio.gather(first, *others))

    answers = asyncio.run(ask())
    assert network.sizes == [1, 4]
    expected = forward(network.inner, inputs)
    assert all(np.array_equal(answer[0], expected[index]) for index, answer in enumerate(answers))


def test_a_large_work_runs_in_several_passes(engine: InferenceEngine) -> None:
    """No forward pass exceeds max_batch_windows, and the rows of a large request come back in order."""
    network = GatedNetwork(build_network())
    network.gate.set()
    inputs = build_inputs(15)
    answer = asyncio.run(engine.forecast("m", network, inputs, later()))
    assert network.sizes == [6, 6, 3]
    assert np.array_equal(answer, forward(network.inner, inputs))


def test_two_networks_never_share_a_pass(engine: InferenceEngine) -> None:
    """Windows are batched per network."""
    one, other = build_network(), build_network(LSTMConfig(context_length=16, horizon=5, hidden_size=12))
    blocker = GatedNetwork(build_network())
    inputs = build_inputs(4)

    async def ask() -> list[np.ndarray]:
        tasks = [asyncio.create_task(engine.forecast("b", blocker, row(inputs, 0), later()))]
        await asyncio.to_thread(blocker.entered.wait, 10)
        for index in range(4):
            network = (one, other)[index % 2]
            tasks.append(asyncio.create_task(engine.forecast("m", network, row(inputs, index), later())))
        await asyncio.sleep(0.05)
        blocker.gate.set()
        return list(await asyncio.gather(*tasks))

    answers = asyncio.run(ask())[1:]
    for index, answer in enumerate(answers):
        assert np.array_equal(answer, forward((one, other)[index % 2], row(inputs, index)))


def test_a_failing_window_does_not_fail_its_neighbours(engine: InferenceEngine) -> None:
    """A forward pass that raises is repeated request by request: only the guilty one gets the error."""
    network = GatedNetwork(build_network())
    good = build_inputs(1)
    bad = good._replace(context=torch.full((1, 16), 666.0))

    async def ask() -> list[object]:
        first = asyncio.create_task(engine.forecast("m", network, good, later()))
        await asyncio.to_thread(network.entered.wait, 10)
        rest = [asyncio.create_task(engine.forecast("m", network, inputs, later())) for inputs in (bad, good)]
        await asyncio.sleep(0.05)
        network.gate.set()
        return list(await asyncio.gather(first, *rest, return_exceptions=True))

    first, poisoned, neighbour = asyncio.run(ask())
    assert isinstance(poisoned, RuntimeError)
    assert isinstance(neighbour, np.ndarray)
    assert np.array_equal(neighbour, first)


def test_expired_work_is_dropped_before_it_runs(engine: InferenceEngine) -> None:
    """A request whose deadline passes in the queue gets a TimeoutError and costs no forward pass."""
    network = GatedNetwork(build_network())
    inputs = build_inputs(1)

    async def ask() -> None:
        first = asyncio.create_task(engine.forecast("m", network, inputs, later()))
        await asyncio.to_thread(network.entered.wait, 10)
        late = asyncio.create_task(engine.forecast("m", network, inputs, later(0.02)))
        await asyncio.sleep(0.1)
        network.gate.set()
        with pytest.raises(TimeoutError):
            await late
        await first

    asyncio.run(ask())
    engine.stop()
    assert len(network.sizes) == 1


def test_a_client_that_leaves_hurts_nobody(engine: InferenceEngine) -> None:
    """A cancelled request is dropped, and the one that shared its pass is answered."""
    network = GatedNetwork(build_network())
    inputs = build_inputs(2)

    async def ask() -> np.ndarray:
        first = asyncio.create_task(engine.forecast("m", network, row(inputs, 0), later()))
        await asyncio.to_thread(network.entered.wait, 10)
        second = asyncio.create_task(engine.forecast("m", network, row(inputs, 1), later()))
        await asyncio.sleep(0.02)
        first.cancel()  # while it runs
        network.gate.set()
        return await second

    assert np.array_equal(asyncio.run(ask()), forward(network.inner, row(inputs, 1)))


def test_draining_refuses_the_new_and_finishes_the_old(engine: InferenceEngine) -> None:
    """After start_draining nothing is admitted, while what waits is still answered, and the thread ends."""
    network = GatedNetwork(build_network())
    inputs = build_inputs(1)

    async def ask() -> list[np.ndarray]:
        first = asyncio.create_task(engine.forecast("m", network, inputs, later()))
        await asyncio.to_thread(network.entered.wait, 10)
        second = asyncio.create_task(engine.forecast("m", network, inputs, later()))
        await asyncio.sleep(0.02)
        engine.start_draining()
        with pytest.raises(ProblemError, match="draining"), engine.admission.hold(1):
            pass
        network.gate.set()
        await asyncio.to_thread(engine.stop)
        return list(await asyncio.gather(first, second))

    first, second = asyncio.run(ask())
    assert np.array_equal(first, second)
    assert not engine.is_alive
