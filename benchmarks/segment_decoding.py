"""The segment network's decoder beside the same GRU step run on every pair of window and segment.

Target: at a horizon of 720 in segments of 24, at least ten times cheaper, forward and backward, and equal to 1e-5.

Both decode the same states with the same weights, in turn; the fastest of several rounds counts, because other work
on the machine makes a run slower, never faster.

usage: benchmarks/segment_decoding.py [--horizon 720] [--segment 24] [--hidden 512] [--windows 64] [--rounds 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.reporting import machine, write_results
from models.initialization import layer_weights
from models.segment import step_from_one_state
from training.allocator import keep_freed_memory


def naive_step(layer: torch.nn.GRU, position: Tensor, state: Tensor) -> Tensor:
    """One row per pair, as the paper's own program does it."""
    count, windows = len(position), len(state)
    pairs, repeated = position.repeat(windows, 1)[:, None], state.repeat_interleave(count, dim=0)[None]
    return layer(pairs, repeated)[0].view(windows, count, -1)


def fastest(action: Callable[[], Tensor], rounds: int, *, backward: bool) -> float:
    """Seconds of the fastest round."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        result = action()
        if backward:
            result.square().sum().backward()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("horizon", 720), ("segment", 24), ("hidden", 512), ("windows", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    keep_freed_memory()  # as every training does
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer = torch.nn.GRU(options.hidden, options.hidden, batch_first=True)
    position = torch.randn(-(-options.horizon // options.segment), options.hidden, requires_grad=True)
    state = torch.randn(options.windows, options.hidden, requires_grad=True)
    ways: dict[str, Callable[[], Tensor]] = {
        "naive": lambda: naive_step(layer, position, state),
        "shared": lambda: step_from_one_state(layer_weights(layer), position, state),
    }
    difference = (ways["naive"]() - ways["shared"]()).abs().max().item()
    rows, seconds = [], {}
    for name, backward in (("forward", False), ("forward and backward", True)):
        measured = {way: fastest(action, options.rounds, backward=backward) for way, action in ways.items()}
        ratio = measured["naive"] / measured["shared"]
        rows.append(f"| {name} | {1e3 * measured['naive']:.0f} | {1e3 * measured['shared']:.0f} | {ratio:.1f} |")
        seconds[name] = measured
    job = vars(options) | {"segments": len(position), "largest_difference": difference}
    words = ", ".join(f"{key} {value}" for key, value in vars(options).items())
    table = "\n".join(["| | ms, every pair | ms, shared | times cheaper |", "|---|---|---|---|", *rows])
    table += f"\n\n{words}; largest difference {difference:.1e}\n"
    write_results("segment_decoding", table, {"machine": machine(), "job": job, "seconds": seconds})


if __name__ == "__main__":
    main()
