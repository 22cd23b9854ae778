"""Depth: how much of what moves the top layer's final state comes from the layers below it.

A gradient can vanish through layers as it does through time: every plain recurrent layer of torch's start passes on about
half of what it receives. Measured as reach is, by a random projection of the final state, on the last few updates.
"""

from __future__ import annotations

import math
import statistics

import torch

from models.forecaster import ForecastInputs, RecurrentForecaster
from training.gradients.lags import NORMALISATION_LAGS, host_norms
from training.gradients.reach import run_segments
from training.gradients.trace import dropout_off, trace_layers

# Updates of every layer that are run; what lies before them hardly adds to the states at the last five.
WARM_UP_UPDATES = 24


def measure_depth(forecaster: RecurrentForecaster, inputs: ForecastInputs, seed: int = 0) -> dict[str, float]:
    """Gradient at the states of every layer over that at the states of the top one.

    Args:
        forecaster: The network.
        inputs: A few windows.
        seed: Of the random vector; the run's own generator is not touched.

    Returns:
        `grad_depth/<layer>`: median over the last five updates, h and c joined; 1 for the top layer, empty for a single layer.
    """
    traces = trace_layers(forecaster, inputs)
    if len(traces) < 2:
        return {}
    generator = torch.Generator(inputs.context.device).manual_seed(seed)
    with torch.enable_grad(), dropout_off(forecaster):
        warm_up = WARM_UP_UPDATES * max(forecaster.config.layer_dilations)
        run = run_segments(forecaster.encoder, traces[0].inputs[:, -warm_up:], NORMALISATION_LAGS)
        final = run.encoded.states[-1][0][-1:]
        vector = torch.randn(final.shape, generator=generator, dtype=final.dtype, device=final.device)
        sources = [part for layer in run.boundaries for state in layer for part in state]
        norms = iter(host_norms(torch.autograd.grad((final * vector).sum(), sources, allow_unused=True)))
    sizes = [statistics.median([math.hypot(*(next(norms) for _ in state)) for state in layer]) for layer in run.boundaries]
    top = sizes[-1]
    return {f"grad_depth/{trace.name}": size / top for trace, size in zip(traces, sizes, strict=True) if top > 0}
