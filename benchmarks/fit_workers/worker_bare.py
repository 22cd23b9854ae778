"""A bare loop: fused LSTM, windows by index, Adam; no norms, no tracking, no validation.

Variants, comma-separated: `malloc` tunes the allocator first; `linear` maps the final state to the horizon with one
linear layer, as most tutorials do, instead of the layers that gradcast's network has after its LSTM.
"""

from __future__ import annotations

import sys
import time

from fit_job import (
    BATCH_SIZE,
    HORIZON,
    LEARNING_RATE,
    NUM_ROWS,
    NUM_SERIES,
    STARTED,
    StepClock,
    build_values,
    read_arguments,
    report,
    repository,
)

arguments = read_arguments()
variant = arguments.variant.split(",")
if "malloc" in variant:
    sys.path.insert(0, str(repository()))
    from training.allocator import keep_freed_memory

    assert keep_freed_memory()

import torch  # noqa: E402  after the allocator is set

import_seconds = time.perf_counter() - STARTED


class LinearHead(torch.nn.Module):
    """The last hidden state of an LSTM, mapped to the horizon."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(1, arguments.hidden_size, arguments.num_layers, batch_first=True)
        self.head = torch.nn.Linear(arguments.hidden_size, HORIZON)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Forecast (B, HORIZON) from a context (B, context_length)."""
        output, _ = self.lstm(context[..., None])
        return self.head(output[:, -1])


class SameNetwork(torch.nn.Module):
    """The layers of gradcast's network: value and observed flag in, features per horizon step out of the final state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(2, arguments.hidden_size, arguments.num_layers, batch_first=True)
        self.steps = torch.nn.Linear(arguments.hidden_size, HORIZON * 16)
        self.mixer = torch.nn.Linear(16, 64)
        self.head = torch.nn.Linear(64, 1)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Forecast (B, HORIZON) from a context (B, context_length)."""
        output, _ = self.lstm(torch.stack((context, torch.ones_like(context)), dim=-1))
        steps = torch.relu(self.steps(output[:, -1])).view(-1, HORIZON, 16)
        return self.head(torch.relu(self.mixer(steps)))[..., 0]


def main() -> None:
    """Train and report."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    started = time.perf_counter()
    values = torch.from_numpy(build_values()).reshape(-1)
    windows_per_series = NUM_ROWS - arguments.context_length - HORIZON + 1
    offsets = torch.arange(arguments.context_length + HORIZON)
    network = LinearHead() if "linear" in variant else SameNetwork()
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    prepare_seconds = time.perf_counter() - started
    clock = StepClock(arguments)
    while not clock.is_over:
        series = torch.randint(NUM_SERIES, (BATCH_SIZE, 1))
        first = torch.randint(windows_per_series, (BATCH_SIZE, 1))
        window = values[series * NUM_ROWS + first + offsets]
        loss = torch.nn.functional.l1_loss(network(window[:, :arguments.context_length]), window[:, arguments.context_length:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        clock.tick()
    report(clock, import_seconds, prepare_seconds, sum(weight.numel() for weight in network.parameters()))


main()
