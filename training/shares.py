"""Threads that take shares of every batch: the fast way to use several cores for one small recurrent network.

A recurrent layer is a chain of small matrix products. Threads that divide every product among themselves (OpenMP inside
torch) wait for each other hundreds of times a step; threads that take a share of the windows each meet once. Everybody
differentiates on the same weights; the gradient of the batch is the sum of the shares' gradients, each weighted by its
number of observed targets, always added in the same order: a repeated fit is equal to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.forecaster import Forecaster
from training.config import FitConfig
from training.data.windows import WindowBatch
from training.threads import one_thread

# Mean loss over the observed targets of a batch, in units of at least the scale floor of each window.
BatchLoss = Callable[[WindowBatch, Float[Tensor, "B 1"]], Float[Tensor, ""]]
# Fewer windows make products so small that calling them takes longer than computing them.
LEAST_WINDOWS = 8
_AWAKE_SECONDS = 0.01
Gradients = Sequence[Tensor | None]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Shares:
    """How the gradient of a batch is computed: at once, or in shares by threads.

    Args:
        pool: All threads but the calling one; None = the calling one does everything.
        size: Threads, the calling one included.
    """

    def __init__(self, pool: ThreadPoolExecutor | None = None, size: int = 1) -> None:
        self._pool, self.size = pool, size

    def differentiate(
        self, mean_loss: BatchLoss, batch: WindowBatch, scale_floor: Float[Tensor, "B 1"], parameters: Sequence[nn.Parameter]
    ) -> Float[Tensor, ""]:
        """Leave the gradient of the mean loss in the parameters' `grad`, which must be None.

        Args:
            mean_loss: Of the windows it is given.
            batch: All windows.
            scale_floor: Of each window.
            parameters: Whose gradient; one without influence on the loss keeps None.

        Returns:
            The mean loss over the observed targets of the batch, detached.
        """
        if self._pool is None or len(batch.series) < self.size:
            loss = mean_loss(batch, scale_floor)
            loss.backward()
            return loss.detach()
        weights = self._weights(batch).to(scale_floor.dtype)

        def of(share: int) -> tuple[Tensor, Gradients]:
            part = self._part(share, len(batch.series))
            with torch.enable_grad():  # a thread's own switch
                loss = mean_loss(batch.rows(part), scale_floor[part]) * weights[share]
                return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

        parts = self._of_each(of)
        for parameter, gradients in zip(parameters, zip(*(gradients for _, gradients in parts), strict=True), strict=True):
            parameter.grad = _sum(gradients)
        return torch.stack([loss for loss, _ in parts]).sum()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Apply a function to all items, each thread to its own; results in the order of the items."""
        if self._pool is None:
            return [function(item) for item in items]

        def of(share: int) -> list[Result]:
            return [function(item) for item in items[share :: self.size]]

        results: list[Result | None] = [None] * len(items)
        for share, of_share in enumerate(self._of_each(of)):
            results[share :: self.size] = of_share
        return cast("list[Result]", results)

    def _of_each(self, function: Callable[[int], Result]) -> list[Result]:
        """Results of all shares, in order; the calling thread computes the first."""
        if self._pool is None:
            return [function(0)]
        others = [self._pool.submit(function, share) for share in range(1, self.size)]
        return [function(0), *(_patiently(other) for other in others)]

    def _part(self, share: int, num_windows: int) -> slice:
        return slice(num_windows * share // self.size, num_windows * (share + 1) // self.size)

    def _weights(self, batch: WindowBatch) -> Float[Tensor, " shares"]:
        """Each share's part of the observed targets."""
        observed = batch.target_mask.sum(dim=1)
        counts = torch.stack([observed[self._part(share, len(observed))].sum() for share in range(self.size)])
        return counts.double() / counts.sum().clamp(min=1)


AT_ONCE = Shares()


def _patiently(share: Future[Result]) -> Result:
    """The result of a share that is nearly done: a thread that sleeps may take longer to wake up than the rest takes."""
    deadline = time.perf_counter() + _AWAKE_SECONDS
    while not share.done() and time.perf_counter() < deadline:
        time.sleep(0)
    return share.result()


def _sum(gradients: Gradients) -> Tensor | None:
    """In order; the first is overwritten."""
    known = [gradient for gradient in gradients if gradient is not None]
    if not known:
        return None
    total = known[0] if known[0].is_contiguous() else known[0].contiguous()
    for gradient in known[1:]:
        total.add_(gradient)
    return total


def can_share(forecaster: Forecaster, fit: FitConfig) -> bool:
    """Whether shares of a batch may be differentiated side by side.

    Not on a GPU; not with dropout, whose random numbers would fall to whichever thread comes first; not in bfloat16 or
    compiled, which change settings of the whole process while they compute.
    """
    drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in forecaster.modules())
    is_plain = fit.precision != "bfloat16" and not fit.compile
    return is_plain and not drops and next(forecaster.parameters()).device.type == "cpu"


@contextmanager
def share_threads(forecaster: Forecaster, fit: FitConfig) -> Iterator[Shares]:
    """Let torch's threads take shares of every batch where they may; torch itself computes with one thread meanwhile.

    Yields:
        How to differentiate; at once, with torch's threads inside every product, where shares are not possible or too small.
    """
    size = min(torch.get_num_threads(), fit.batch_size // LEAST_WINDOWS)
    if size <= 1 or not can_share(forecaster, fit):
        yield AT_ONCE
        return
    with one_thread(), ThreadPoolExecutor(size - 1, "share", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield Shares(pool, size)
