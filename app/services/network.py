"""A forecaster made ready to answer many small requests: the same numbers, less work around them.

Three things cost more than the recurrence when one window is asked for: the interpreter between some sixty small operations,
matrix products that take another code path (and round differently) below a few rows, and repeating rows to avoid that.
So the network is traced once when it is loaded, its two-dimensional products get rows of zeros as company, its LSTM layers
are called without torch's preparations (`app.services.fused_lstm`), and the number of rows below which bits would still change is
measured instead of assumed. Whatever cannot be traced, or comes out with one bit different, is served as it is.

torch never gives back what a trace took, some megabytes. So a graph is made once per architecture, with the weights among its
inputs, and the versions of a model share it.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.services.fused_lstm import fuse_lstm
from models.forecaster import Forecaster, ForecastInputs

logger = logging.getLogger(__name__)

# Rows added to a product of two matrices: with them it has at least four, whatever the number of windows.
COMPANY = 3
# Numbers of windows whose bits are compared; the largest stands for every larger one.
PROBE_SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64)
PROBED_ROWS = 16
TIMED_PASSES = 3

Traced = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

_graphs: dict[str, Callable[..., Tensor]] = {}
_graphs_lock = threading.Lock()


@final
class ServingNetwork:
    """Answers windows; row for row the same bits alone and in company.

    Args:
        forecaster: A verified network in evaluation mode; it is copied, not changed.

    Attributes:
        forecaster: The network as it was given.
        is_traced: Whether the traced form is served.
        seconds: Of a pass over one window, at its quickest.
        min_windows: Rows a forward pass needs for every row to have the bits it has among many; fewer are repeated.
    """

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster
        self._dtype = next(iter(forecaster.state_dict().values())).dtype
        self._network: Traced = _plain(forecaster)
        self.is_traced = False
        with torch.inference_mode():
            probe = _probe_inputs(forecaster, self._dtype)
            traced = _fastest(forecaster, probe)
            if traced is not None:
                self._network, self.is_traced = traced, True
            self.min_windows = self._measure_min_windows(probe)
            self.seconds = self._measure_seconds(probe)

    @torch.inference_mode()
    def __call__(self, inputs: ForecastInputs) -> NDArray[np.float32]:
        """Forecast.

        Args:
            inputs: At least one window.

        Returns:
            Quantiles "B Q H" in the unit of y: the horizon last, as answers want it.
        """
        num_windows = inputs.context.shape[0]
        if num_windows < self.min_windows:
            rows = torch.arange(self.min_windows) % num_windows
            inputs = ForecastInputs(*(tensor[rows] for tensor in inputs))
        if self._dtype is not torch.float32:
            inputs = ForecastInputs(*(t if t.dtype is torch.bool else t.to(self._dtype) for t in inputs))
        quantiles: NDArray[np.float32] = self._network(*inputs).float().numpy()
        return quantiles[:num_windows]

    def _measure_seconds(self, probe: ForecastInputs) -> float:
        window, spent = _rows(probe, 0, 1), []
        for _ in range(TIMED_PASSES):
            begin = time.perf_counter()
            self(window)
            spent.append(time.perf_counter() - begin)
        return min(spent)

    def _measure_min_windows(self, probe: ForecastInputs) -> int:
        """The smallest number of rows from which on no number of rows changes a bit."""
        together = self._network(*probe)
        smallest = len(together)
        for size in reversed(PROBE_SIZES):
            starts = range(0, max(1, PROBED_ROWS - size + 1), size)
            alone = torch.cat([self._network(*_rows(probe, start, size)) for start in starts])
            if not torch.equal(alone, together[: len(alone)]):
                break
            smallest = size
        return smallest


class _StableLinear(nn.Linear):
    """A linear layer whose product of two matrices always has at least four rows."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """`input @ weight.T + bias`, row for row the same bits whatever the number of rows."""
        if input.dim() != 2:
            return functional.linear(input, self.weight, self.bias)
        padded = functional.pad(input, (0, 0, 0, COMPANY))
        return functional.linear(padded, self.weight, self.bias)[:-COMPANY]


class _Flat(nn.Module):
    """Tensors in, a tensor out, as tracing wants it."""

    def __init__(self, forecaster: nn.Module) -> None:
        super().__init__()
        self.forecaster = forecaster

    def forward(self, context: Tensor, mask: Tensor, past: Tensor, future: Tensor, static: Tensor) -> Tensor:
        """Quantiles "B Q H" of the windows."""
        quantiles: Tensor = self.forecaster(ForecastInputs(context, mask, past, future, static))
        return quantiles.transpose(1, 2).contiguous()


def _plain(forecaster: nn.Module) -> nn.Module:
    return _Flat(forecaster).eval()


def _stable(forecaster: Forecaster) -> Forecaster:
    stable = copy.deepcopy(forecaster)
    for layer in stable.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = _StableLinear
    return stable.eval()


def _fastest(forecaster: Forecaster, probe: ForecastInputs) -> Traced | None:
    """The first of the forms, quickest first, that can be traced and gives the same bits."""
    expected = _plain(_stable(forecaster))
    fused = _stable(forecaster)
    forms = [fused, _stable(forecaster)] if fuse_lstm(fused) else [fused]
    for form in forms:
        traced = _trace(form, probe)
        if traced is not None and all(_are_equal(traced, expected, part) for part in _parts(probe)):
            return traced
    return None


def _trace(forecaster: Forecaster, probe: ForecastInputs) -> Traced | None:
    """The forward pass as one graph; None if torch cannot, or no longer, do that."""
    network = _plain(forecaster)
    weights = tuple(tensor for _, _, tensor in _tensors(network))
    shapes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in weights]
    key = f"{type(forecaster).__name__} {forecaster.config.model_dump_json()} {shapes}"
    with _graphs_lock:
        graph = _graphs.get(key) or _trace_with_weights(network, weights, probe)
        if graph is None:
            return None
        _graphs[key] = graph
    return lambda *inputs: graph(*weights, *inputs)


def _trace_with_weights(network: nn.Module, weights: tuple[Tensor, ...], probe: ForecastInputs) -> Callable[..., Tensor] | None:
    places = [(module, name) for module, name, _ in _tensors(network)]

    def forward(*tensors: Tensor) -> Tensor:
        for (module, name), tensor in zip(places, tensors, strict=False):
            delattr(module, name)
            setattr(module, name, tensor)
        forecast: Tensor = network(*tensors[len(places) :])
        return forecast

    try:
        with warnings.catch_warnings():
            # Shapes are compared while tracing, which is what the warnings are about; the result is compared below.
            warnings.simplefilter("ignore")
            graph: Callable[..., Tensor] = torch.jit.trace(forward, (*weights, *probe), check_trace=False)
    except Exception as error:  # noqa: BLE001  the plain network answers as well, only slower
        logger.info("serving the network untraced: %s", type(error).__name__)
        return None
    return graph


def _tensors(network: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Every parameter and buffer, with the module and the name it has there."""
    return [
        (module, name, tensor.detach())
        for module in network.modules()
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    ]


def _are_equal(traced: Traced, plain: Traced, inputs: ForecastInputs) -> bool:
    """Whether both give the same bits, also at the second and third call, which the tracer optimises."""
    try:
        expected = plain(*inputs)
        return all(torch.equal(traced(*inputs), expected) for _ in range(3))
    except RuntimeError:
        return False


def _rows(inputs: ForecastInputs, start: int, size: int) -> ForecastInputs:
    return ForecastInputs(*(tensor[start : start + size] for tensor in inputs))


def _parts(probe: ForecastInputs) -> Iterator[ForecastInputs]:
    return (_rows(probe, 0, size) for size in (1, 2, 7, probe.context.shape[0]))


def _probe_inputs(forecaster: Forecaster, dtype: torch.dtype) -> ForecastInputs:
    """Made-up windows of every kind: with gaps, short, constant, large and small."""
    config, generator = forecaster.config, torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    count, length = PROBE_SIZES[-1] + 1, config.context_length
    context = noise(count, length) * 10.0 ** (torch.arange(count)[:, None] % 7 - 3) + 5.0
    mask = torch.rand(count, length, generator=generator) > 0.2
    mask[::3] = True
    mask[1::5, : length // 2] = False
    mask[:, -1] = True
    context[4::11] = 3.0
    return ForecastInputs(
        torch.where(mask, context, 0.0).to(dtype), mask, noise(count, length, config.num_past_covariates),
        noise(count, config.horizon, config.num_future_covariates), noise(count, config.num_static_covariates),
    )  # fmt: skip
