"""What a layer of xLSTM's sLSTM costs beside torch's fused LSTM: the figure behind docs/adr/0010-no-slstm.md.

Its gates are exponential and look at the state, so that its steps cannot be joined by a scan; torch has no kernel for them, and
they run as a loop in Python. Both layers read the same windows, forward and backward, in turn; the fastest of several rounds
counts, because other work on the machine makes a run slower, never faster.

usage: benchmarks/slstm_cost.py [--windows 64] [--length 168] [--hidden 64] [--rounds 5]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.reporting import machine, write_results
from training.allocator import keep_freed_memory

CHANNELS = 10


class SLSTM(nn.Module):
    """One layer (Beck et al. 2024, 2405.04517, equations 8 to 17), its gates' products with the inputs taken together."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(input_size, 4 * hidden_size)
        self.from_state = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.hidden_size = hidden_size

    def forward(self, inputs: Tensor) -> Tensor:
        """All hidden states; m keeps every exponential below one."""
        driven = self.from_input(inputs).unbind(1)
        h = c = m = inputs.new_zeros(len(inputs), self.hidden_size)
        n = torch.ones_like(h)
        outputs = []
        for step in driven:
            i, f, z, o = (step + self.from_state(h)).chunk(4, dim=-1)
            keep = functional.logsigmoid(f) + m
            m = torch.maximum(keep, i)
            write, kept = torch.exp(i - m), torch.exp(keep - m)
            c, n = kept * c + write * torch.tanh(z), kept * n + write
            h = torch.sigmoid(o) * c / n
            outputs.append(h)
        return torch.stack(outputs, dim=1)


def fastest(layer: nn.Module, inputs: Tensor, rounds: int) -> float:
    """Seconds of the fastest forward and backward pass."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        result = layer(inputs)
        (result[0] if isinstance(result, tuple) else result)[:, -1].square().sum().backward()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("windows", 64), ("length", 168), ("hidden", 64), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    keep_freed_memory()  # as every training does
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = torch.randn(options.windows, options.length, CHANNELS)
    layers = {"lstm": nn.LSTM(CHANNELS, options.hidden, batch_first=True), "slstm": SLSTM(CHANNELS, options.hidden)}
    seconds = {name: fastest(layer, inputs, options.rounds) for name, layer in layers.items()}
    rows = [f"| {name} | {1e3 * value:.1f} | {value / seconds['lstm']:.1f} |" for name, value in seconds.items()]
    table = "\n".join(["| layer | ms, forward and backward | times the LSTM |", "|---|---|---|", *rows])
    words = ", ".join(f"{key} {value}" for key, value in vars(options).items())
    write_results("slstm_cost", f"{table}\n\n{words}\n", {"machine": machine(), "job": vars(options), "seconds": seconds})


if __name__ == "__main__":
    main()
