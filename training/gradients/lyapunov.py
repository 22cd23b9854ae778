"""Maximum Lyapunov exponent: how fast two nearby states part, under the inputs the layer really has.

Shadow trajectories run beside the windows in one batch, forward only (Benettin et al. 1980; for recurrent networks Vogt
et al. 2020, 2006.14123). Below zero a state is forgotten and its gradient vanishes at that rate; above zero both
explode, which on chaotic data is as it should be (Mikhaeil et al. 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.recurrent import LayerState
from training.gradients.trace import LayerTrace

# Distance of the shadow: far above the rounding of float64, far below where the curvature of tanh matters.
DISTANCE = 1e-6
# Steps between two rescalings; over so few the distance changes by few powers of ten.
RESCALE_STEPS = 8
# Share of the context at its start in which the shadow turns into the fastest direction and nothing is counted.
TRANSIENT_SHARE = 0.25
MAX_WINDOWS = 8


@torch.no_grad()
def measure_lyapunov(traces: Sequence[LayerTrace], max_windows: int = MAX_WINDOWS, seed: int = 0) -> dict[str, float]:
    """Maximum Lyapunov exponent of every recurrent layer, in one copy to the host.

    Args:
        traces: From `trace_layers`.
        max_windows: Windows to follow; the median over them is reported.
        seed: Of the first direction.

    Returns:
        `lyapunov/<layer>`: mean growth of the logarithm of a small distance, per step.
    """
    exponents = torch.stack(
        [_exponents(trace, max_windows, seed).median() / trace.steps_per_update for trace in traces]
    )
    return {f"lyapunov/{trace.name}": value for trace, value in zip(traces, exponents.tolist(), strict=True)}


def _exponents(trace: LayerTrace, max_windows: int, seed: int) -> Float[Tensor, " B"]:
    # In float64, because distances of 1e-6 between states of order one leave float32 a single digit.
    layer = copy.deepcopy(trace.layer).double()
    inputs = trace.inputs[:max_windows].double().repeat(2, 1, 1)
    count, length = inputs.shape[0] // 2, inputs.shape[1]
    base = tuple(part[:, :count].double() for part in trace.initial)
    generator = torch.Generator(inputs.device).manual_seed(seed)
    shift = tuple(torch.randn(part.shape, generator=generator, dtype=part.dtype, device=part.device) for part in base)
    skipped = min(int(TRANSIENT_SHARE * length), length - 1)
    growth, counted = base[0].new_zeros(count), 0
    start = 0
    while start < length:
        end = min(start + RESCALE_STEPS, skipped if start < skipped else length)
        unit = DISTANCE / _norm(shift)
        state = tuple(torch.cat((b, b + s * unit[None, :, None]), dim=1) for b, s in zip(base, shift, strict=True))
        base, shift = _advance(layer, inputs[:, start:end], state)
        if start >= skipped:
            growth += (_norm(shift) / DISTANCE).log()
            counted += end - start
        start = end
    return growth / counted


def _advance(
    layer: torch.nn.Module, inputs: Float[Tensor, "B2 K C"], state: LayerState
) -> tuple[LayerState, LayerState]:
    _, last = layer(inputs, state if len(state) > 1 else state[0])
    halves = [part.chunk(2, dim=1) for part in (last if isinstance(last, tuple) else (last,))]
    return tuple(base for base, _ in halves), tuple(shadow - base for base, shadow in halves)


def _norm(shift: LayerState) -> Float[Tensor, " B"]:
    joined = torch.cat([part.transpose(0, 1).flatten(1) for part in shift], dim=-1)
    # A distance of exactly zero is a state forgotten within one stretch: the smallest number stands for it.
    lengths: Tensor = torch.linalg.vector_norm(joined, dim=-1)
    return lengths.clamp(min=torch.finfo(joined.dtype).tiny)
