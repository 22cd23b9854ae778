"""Reach without the loss: a random projection of the final state, differentiated back to the state at a lag.

For v standard normal, E |J^T v|^2 is the squared Frobenius norm of the Jacobian J of the final state with respect to
the state at the lag. It does not shrink because a model has converged, so verdicts rest on it (after Pascanu et al.
2013, 1211.5063, and Vorontsov et al. 2017, 1702.00071).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.forecaster import ForecastInputs, RecurrentForecaster
from models.recurrent import LayerState
from training.gradients.lags import LagCurve, build_curve, cut_lags, host_norms, log_spaced_lags, update_cuts
from training.gradients.reach import run_layer_segments, run_segments
from training.gradients.trace import LayerTrace, dropout_off, trace_layers

STACK = "stack"
# Windows are many draws of v already, one each; a sub-batch of this many is what the schedule pays for.
SUB_BATCH = 8


def measure_jacobian(
    forecaster: RecurrentForecaster,
    inputs: ForecastInputs,
    lags: Sequence[int] | None = None,
    num_vectors: int = 1,
    max_windows: int = SUB_BATCH,
    seed: int = 0,
) -> list[LagCurve]:
    """Norm of J^T v over lag, for every layer on its own and for the stack.

    A layer's own curve is that of its recurrence alone, driven by the inputs it really had: the state of `lstm.1` at a
    lag cannot act on the layer below. The curve `stack` (only with several layers) starts at the hidden state that the
    decoder reads and ends at the states of all layers together.

    Args:
        forecaster: The network.
        inputs: Windows, of which the first `max_windows` are used.
        lags: Where to cut; None = `log_spaced_lags` of the context.
        num_vectors: Random vectors per window.
        max_windows: Size of the sub-batch.
        seed: Of the random vectors; the run's own generator is not touched.

    Returns:
        Curves of kind `jacobian`: root of the mean over windows and vectors, h and c joined.
    """
    inputs = ForecastInputs(*(part[:max_windows].repeat(num_vectors, *[1] * (part.dim() - 1)) for part in inputs))
    config, length = forecaster.config, forecaster.config.recurrent_steps
    lags = log_spaced_lags(length) if lags is None else lags
    cuts = update_cuts(lags, config.steps_per_update, config.num_updates)
    generator = torch.Generator(inputs.context.device).manual_seed(seed)
    traces = trace_layers(forecaster, inputs)
    with torch.enable_grad():
        groups = [(trace.name, layer_gradients(trace, cuts, generator)) for trace in traces]
        if len(traces) > 1:
            groups.append((STACK, _stack_gradients(forecaster, traces[0], cuts, generator)))
    return _curves(groups, cut_lags(cuts, config.steps_per_update, length))


def layer_gradients(trace: LayerTrace, cuts: Sequence[int], generator: torch.Generator) -> list[LayerState]:
    """J^T v of one layer's recurrence, v on its whole final state.

    Args:
        trace: The layer and the inputs it had.
        cuts: Where to cut, in updates before the end.
        generator: Source of v.

    Returns:
        The gradient with respect to the state at each cut, cuts increasing.
    """
    wanted = sorted((cut for cut in set(cuts) if 1 <= cut <= trace.inputs.shape[1]), reverse=True)
    _, final, boundaries = run_layer_segments(trace.layer, trace.inputs, trace.initial, wanted)
    return _pull_back(final, boundaries, generator)


def _stack_gradients(
    forecaster: RecurrentForecaster, first: LayerTrace, cuts: Sequence[int], generator: torch.Generator
) -> list[LayerState]:
    with dropout_off(forecaster):
        run = run_segments(forecaster.encoder, first.inputs, cuts)
    joined = [tuple(part for layer in run.boundaries for part in layer[index]) for index in range(len(run.cuts))]
    newest = run.encoded.states[-1][0][-1:]  # of a dilated layer's last states the one that the decoder reads
    return _pull_back((newest,), joined, generator)


def _pull_back(final: LayerState, boundaries: list[LayerState], generator: torch.Generator) -> list[LayerState]:
    # The gradient of v . state is J^T v; handing v to autograd as grad_outputs would import sympy first, 0.7 seconds.
    projection = torch.stack([(part * _normal_like(part, generator)).sum() for part in final]).sum()
    sources = [part for state in boundaries for part in state]
    gradients = iter(torch.autograd.grad(projection, sources))
    return [tuple(next(gradients) for _ in state) for state in boundaries][::-1]


def _normal_like(part: Float[Tensor, "1 B D"], generator: torch.Generator) -> Float[Tensor, "1 B D"]:
    return torch.randn(part.shape, generator=generator, dtype=part.dtype, device=part.device)


def _curves(groups: list[tuple[str, list[LayerState]]], lags: Sequence[int]) -> list[LagCurve]:
    tensors = [part for _, states in groups for state in states for part in state]
    rows = tensors[0].shape[1]
    norms = iter(host_norms(tensors))
    curves = []
    for name, states in groups:
        joined = [math.hypot(*(next(norms) for _ in state)) / math.sqrt(rows) for state in states]
        curves.append(build_curve(name, "state", "jacobian", lags, joined, tensors[0].dtype))
    return curves
