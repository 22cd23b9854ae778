"""What a team makes of the gradients of its processes' shares, whichever way they are summed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, distributed, nn

from training.exchange import CollectiveExchange, Exchange
from training.team import ProcessTeam


class _Echo(Exchange):
    """Adds to this process's part what another would have sent."""

    def __init__(self, other: Tensor) -> None:
        self.other, self.is_closed = other, False

    def reserve(self, bucket: Tensor) -> bool:
        return len(bucket) == len(self.other)

    def part(self, bucket: Tensor) -> Tensor:
        self.slot = torch.full_like(bucket, torch.nan)
        return self.slot

    def sum_(self, bucket: Tensor) -> None:
        torch.add(self.slot, self.other, out=bucket)

    def close(self) -> None:
        self.is_closed = True


@contextmanager
def process_group() -> Iterator[None]:
    """Of this process alone."""
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def parameters() -> list[nn.Parameter]:
    """Two with a gradient; the one between them has none."""
    made = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))]
    made[0].grad, made[2].grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0])
    return made


def test_the_mean_is_weighted_by_observed_targets() -> None:
    """By hand: 3 targets with gradient (1..5) and loss 2 here, 1 target with 8 times that and loss 6 there."""
    other = torch.tensor([8.0, 16.0, 24.0, 32.0, 0.0, 0.0, 0.0, 40.0, 6.0, 1.0, 0.0])
    team, own = ProcessTeam(0, 2, _Echo(other)), parameters()
    loss = team.average_(torch.tensor(2.0), torch.tensor(3), own)
    assert loss.item() == (3 * 2 + 6) / 4
    assert own[0].grad is not None
    assert own[0].grad.tolist() == [[11 / 4, 22 / 4], [33 / 4, 44 / 4]]
    assert own[1].grad is None
    assert own[2].grad is not None
    assert own[2].grad.tolist() == [55 / 4]


def test_the_loss_of_a_step_outlives_the_next() -> None:
    """Losses are kept until they are logged, though all sums of a fit share one bucket."""
    team, own = ProcessTeam(0, 2, _Echo(torch.zeros(11))), parameters()
    first = team.average_(torch.tensor(2.0), torch.tensor(3), own)
    own[0].grad, own[2].grad = torch.ones(2, 2), torch.ones(1)
    team.average_(torch.tensor(7.0), torch.tensor(3), own)
    assert first.item() == 2.0


@pytest.mark.parametrize("num_targets", [0, 3])
def test_a_wish_to_stop_travels_with_a_share_without_targets_too(num_targets: int) -> None:
    """It counts for all processes at the step it came with, and for no other."""
    team, own = ProcessTeam(0, 2, _Echo(torch.zeros(11))), parameters()
    assert not team.agree_to_stop(True)
    team.average_(torch.tensor(0.0), torch.tensor(num_targets), own)
    assert team.agree_to_stop(False)
    team.average_(torch.tensor(0.0), torch.tensor(num_targets), own)
    assert not team.agree_to_stop(False)


def test_without_room_the_sum_goes_through_the_process_group() -> None:
    """The exchange that has none is closed; one process then has its own gradient, its own loss and its own bits."""
    full, own = _Echo(torch.zeros(4)), parameters()
    expected = [None if parameter.grad is None else parameter.grad.clone() for parameter in own]
    with process_group():
        loss = ProcessTeam(0, 1, full).average_(torch.tensor(2.0), torch.tensor(4), own)
    assert full.is_closed
    assert loss.item() == 2.0
    for parameter, gradient in zip(own, expected, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


def test_a_team_of_several_machines_sums_in_place() -> None:
    """All-reduce takes the bucket itself, so nothing is copied for it."""
    bucket = torch.arange(4.0)
    with process_group():
        exchange = CollectiveExchange()
        assert exchange.reserve(bucket)
        assert exchange.part(bucket) is bucket
        exchange.sum_(bucket)
    assert bucket.tolist() == [0.0, 1.0, 2.0, 3.0]
