"""Several processes that train one network: each takes the gradient of its share of every batch.

The share's mean gradient is weighted by its number of observed targets, so that the sum over the team is the gradient of
the whole batch. What is measured, clipped and applied is that sum: every process makes the same update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from training.exchange import CollectiveExchange, Exchange, complete

# Keeps the random numbers of neighbouring steps and workers apart (the golden ratio's share of 2^64, Knuth vol. 3, 6.4).
_SPREAD = 0x9E3779B97F4A7C15
# After the gradients: loss times weight, weight, wishes to stop.
_NUM_ENDS = 3


class Team(ABC):
    """The processes of one fit.

    Attributes:
        rank: Position of this process; 0 leads: it alone writes, logs and decides.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes, logs and decides."""
        return self.rank == 0

    def share(self, num_windows: int) -> slice:
        """This process's part of a batch; the parts of all processes cover it without overlap."""
        edges = (num_windows * self.rank // self.size, num_windows * (self.rank + 1) // self.size)
        return slice(*edges)

    @abstractmethod
    def seed(self, seed: int, step: int) -> None:
        """Give dropout its random numbers for a step."""

    @abstractmethod
    def average_(self, loss: Float[Tensor, ""], num_targets: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Turn the gradients of this process's share into those of the whole batch, in place.

        Args:
            loss: Mean over the observed targets of the share.
            num_targets: How many those are.
            parameters: Whose gradients to average.

        Returns:
            Mean loss over the observed targets of the whole batch.

        Raises:
            WorkerLostError: If a process is gone.
        """

    @abstractmethod
    def total(self, part: Tensor) -> Tensor:
        """Sum of the processes' parts."""

    @abstractmethod
    def agree(self, wish: bool) -> bool:
        """What the leader wishes, in every process."""

    @abstractmethod
    def agree_to_stop(self, wish: bool) -> bool:
        """Whether to stop after this step; a wish travels with the next gradient, so that all stop at the same step."""

    @abstractmethod
    def broadcast(self, content: bytes = b"") -> bytes:
        """The leader's bytes, in every process."""


@final
class _Alone(Team):
    def seed(self, seed: int, step: int) -> None:
        """Leave the one stream of random numbers as it is."""

    def average_(self, loss: Float[Tensor, ""], num_targets: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        return loss

    def total(self, part: Tensor) -> Tensor:
        return part

    def agree(self, wish: bool) -> bool:
        return wish

    def agree_to_stop(self, wish: bool) -> bool:
        return wish

    def broadcast(self, content: bytes = b"") -> bytes:
        return content


ALONE: Team = _Alone()


@final
class ProcessTeam(Team):
    """Processes connected by `torch.distributed`: gloo between CPUs, nccl between GPUs.

    Args:
        rank: Position of this process.
        size: Number of processes.
        exchange: How gradients are summed; everything else goes through `torch.distributed`.
    """

    def __init__(self, rank: int, size: int, exchange: Exchange | None = None) -> None:
        self.rank, self.size = rank, size
        self._exchange = exchange or CollectiveExchange()
        # Where there is no GPU, torch.manual_seed spends most of its time on noting the seed for when there will be one.
        self._seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
        self._parameters: Sequence[nn.Parameter] = ()
        self._bucket = torch.empty(0)
        self._one, self._zeros, self._views = self._bucket, list[Tensor](), list[Tensor]()
        self._wishes_stop = False
        self._stops = False

    def seed(self, seed: int, step: int) -> None:
        """By seed, step and rank: a checkpoint then needs no state of any process but the leader's."""
        self._seed((seed + _SPREAD * (step * self.size + self.rank)) % 2**63)

    def average_(self, loss: Float[Tensor, ""], num_targets: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        """One sum of one flat bucket; afterwards the gradients are views of it, until the next."""
        gradients = [parameter.grad for parameter in parameters]
        if parameters is not self._parameters:
            self._lay_out(parameters)
        bucket, part = self._bucket, self._exchange.part(self._bucket)
        flat = [(zero if own is None else own).reshape(-1) for own, zero in zip(gradients, self._zeros, strict=True)]
        # The weight is that of the one at the end; the wish is of all processes, those without targets too.
        torch.mul(torch.cat([*flat, loss.detach().to(bucket.dtype).reshape(1), self._one]), num_targets, out=part[:-1])
        part[-1:].fill_(self._wishes_stop)
        self._exchange.sum_(bucket)
        _, weight, stop = bucket[-_NUM_ENDS:].tolist()
        self._stops = stop > 0
        bucket[:-2].div_(max(weight, 1.0))
        for parameter, own, view in zip(parameters, gradients, self._views, strict=True):
            if own is not None:
                parameter.grad = view
        return bucket[-_NUM_ENDS].clone()

    def _lay_out(self, parameters: Sequence[nn.Parameter]) -> None:
        """One bucket for all steps of a fit: memory that is written anew at every step would be cold each time."""
        sizes = [parameter.numel() for parameter in parameters]
        self._parameters, self._bucket = parameters, parameters[0].detach().new_empty(sum(sizes) + _NUM_ENDS)
        self._one, parts = self._bucket.new_ones(1), self._bucket[:-_NUM_ENDS].split(sizes)
        self._views = [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
        self._zeros = [self._one.new_zeros(()).expand_as(parameter) for parameter in parameters]
        if not self._exchange.reserve(self._bucket):
            self._exchange.close()
            self._exchange = CollectiveExchange()

    def total(self, part: Tensor) -> Tensor:
        """Sum of the processes' parts, in place."""
        with complete():
            distributed.all_reduce(part)
        return part

    def agree(self, wish: bool) -> bool:
        """An all-reduce of one number."""
        return bool(self.total(torch.tensor(float(wish and self.is_leader))) > 0)

    def agree_to_stop(self, wish: bool) -> bool:
        """Whether the leader wished it before the step that was just done."""
        self._wishes_stop = wish and self.is_leader
        stops, self._stops = self._stops, False
        return stops

    def broadcast(self, content: bytes = b"") -> bytes:
        """Length, then content."""
        length = torch.tensor([len(content)])
        with complete():
            distributed.broadcast(length, src=0)
            buffer = torch.empty(int(length), dtype=torch.uint8)
            if self.is_leader and content:
                buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if len(buffer):
                distributed.broadcast(buffer, src=0)
        return buffer.numpy().tobytes()

    def close(self) -> None:
        """Take part in nothing more."""
        self._exchange.close()
