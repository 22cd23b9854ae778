"""The inference engine: one thread that drains the queue.

There is no timer and no batch to wait for: whatever has queued up while one forward pass ran is the next one. A small window
that is alone runs in the event loop itself. A single client pays nothing for batching; many clients share forward passes. Who
may wait is decided before: see `app.services.admission`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from app.services.admission import Admission
from app.services.metrics import ServiceMetrics
from models.forecaster import ForecastInputs

logger = logging.getLogger(__name__)

# A pass that is over sooner runs in the event loop if nobody else is there: two hops between threads cost as much.
MAX_INLINE_SECONDS = 0.002


class Network(Protocol):
    """Windows in, quantiles "B Q H" out; each row the same bits alone and in company.

    Attributes:
        seconds: Of a pass over one window.
    """

    seconds: float

    def __call__(self, inputs: ForecastInputs) -> NDArray[np.float32]:
        """Forecast at least one window."""


@dataclass(eq=False, slots=True)
class _Work:
    """Windows of one request for one network."""

    label: str
    network: Network
    inputs: ForecastInputs
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[NDArray[np.float32]]

    @property
    def num_windows(self) -> int:
        return int(self.inputs.context.shape[0])


class InferenceEngine:
    """Runs forward passes in its own thread, many requests at a time.

    Args:
        metrics: Where queue and batches are counted.
        admission: Who may wait.
        max_batch_windows: Windows in one forward pass.
        num_threads: CPU threads of one forward pass.
    """

    def __init__(
        self, metrics: ServiceMetrics, admission: Admission, max_batch_windows: int = 256, num_threads: int = 1
    ) -> None:
        self.admission = admission
        self._metrics = metrics
        self._max_batch_windows = max_batch_windows
        self._num_threads = num_threads
        # What one turn of the event loop brought is handed over at once: waking the thread costs as much as a window.
        self._arrived: list[_Work] = []
        # None = no more will come. Its lock is held for an instant only: the event loop never waits for the batch.
        self._waiting: SimpleQueue[list[_Work] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gradcast-inference", daemon=True)
        metrics.queue_windows.set_function(lambda: admission.admitted_windows)

    @property
    def admitted_windows(self) -> int:
        """Windows admitted and not yet released."""
        return self.admission.admitted_windows

    @property
    def is_draining(self) -> bool:
        """Whether new windows are refused because the service is leaving."""
        return self.admission.is_draining

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; called where the event loop runs, which computes too."""
        torch.set_num_threads(self._num_threads)
        self._thread.start()

    def start_draining(self) -> None:
        """Admit nothing more; what was admitted is still answered."""
        self.admission.is_draining = True

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Finish the queue and end the thread."""
        self.start_draining()
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    async def forecast(
        self, label: str, network: Network, inputs: ForecastInputs, deadline: float
    ) -> NDArray[np.float32]:
        """Forecast windows in the company of whatever else waits.

        Args:
            label: Name of the model, for the metrics.
            network: What runs; works with the same network share forward passes.
            inputs: The windows.
            deadline: `time.monotonic()` after which nobody waits any more; work whose turn comes later does not run. Who wants to
                hear of it at once watches the clock as well.

        Returns:
            Quantiles "B Q H" in the unit of y.

        Raises:
            TimeoutError: If the deadline passes first.
        """
        if self.admission.admitted_windows <= 1 and inputs.context.shape[0] == 1 and network.seconds <= MAX_INLINE_SECONDS:
            await asyncio.sleep(0)  # whoever has arrived by now takes a place first
            if self.admission.admitted_windows <= 1 and time.monotonic() < deadline:
                return self._forward(label, network, inputs)
        loop = asyncio.get_running_loop()
        work = _Work(label, network, inputs, deadline, loop, loop.create_future())
        if not self._arrived:
            loop.call_soon(self._hand_over)
        self._arrived.append(work)
        return await work.future

    def _hand_over(self) -> None:
        works, self._arrived = self._arrived, []
        self._waiting.put(works)

    def _run(self) -> None:
        # OMP_NUM_THREADS binds every thread; this binds at least the one that computes, also when torch came first.
        torch.set_num_threads(self._num_threads)
        while (works := self._drain()) is not None:
            for batch in _group(works, self._max_batch_windows):
                self._run_batch(batch)

    def _drain(self) -> list[_Work] | None:
        """Whatever waits; None once there will be no more."""
        groups = [self._waiting.get()]
        with contextlib.suppress(Empty):
            while True:
                groups.append(self._waiting.get_nowait())
        if None in groups:
            self._waiting.put(None)  # for the next call, which finds nothing else
        return [work for group in groups if group is not None for work in group] or None

    def _run_batch(self, batch: Sequence[_Work]) -> None:
        live = [work for work in batch if self._is_wanted(work)]
        if not live:
            return
        try:
            self._answer(live)
        except Exception as error:
            if len(live) == 1:
                logger.exception("forward pass of %s failed", live[0].label)
                _deliver(live[0].loop, [(live[0], error)])
                return
            for work in live:  # one request's windows must not fail its neighbours
                self._run_batch([work])

    def _is_wanted(self, work: _Work) -> bool:
        wanted = time.monotonic() < work.deadline and not work.future.cancelled()
        if not wanted:
            self._metrics.expired_windows.inc(work.num_windows)
            _deliver(work.loop, [(work, TimeoutError("the deadline passed before the work ran"))])
        return wanted

    def _answer(self, works: Sequence[_Work]) -> None:
        inputs = works[0].inputs if len(works) == 1 else _concatenate([work.inputs for work in works])
        chunks = []
        for start in range(0, inputs.context.shape[0], self._max_batch_windows):
            if start and not any(map(self._is_wanted, works)):
                return
            chunk = ForecastInputs(*(tensor[start : start + self._max_batch_windows] for tensor in inputs))
            chunks.append(self._forward(works[0].label, works[0].network, chunk))
        quantiles = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        ends = np.cumsum([work.num_windows for work in works])
        answers = list(zip(works, np.split(quantiles, ends[:-1]), strict=True))
        for loop in {work.loop for work in works}:
            _deliver(loop, [(work, answer) for work, answer in answers if work.loop is loop])

    def _forward(self, label: str, network: Network, inputs: ForecastInputs) -> NDArray[np.float32]:
        num_windows = inputs.context.shape[0]
        begin = time.perf_counter()
        quantiles = forward(network, inputs)
        seconds = time.perf_counter() - begin
        self._metrics.batch_windows.observe(num_windows)
        self._metrics.batch_seconds.observe(seconds)
        self._metrics.windows.labels(label).inc(num_windows)
        return quantiles


def forward(network: Network, inputs: ForecastInputs) -> NDArray[np.float32]:
    """One forward pass: quantiles "B Q H" in the unit of y."""
    return network(inputs)


def _group(works: Iterable[_Work], max_windows: int) -> list[list[_Work]]:
    """Batches of the same network, in order of arrival, each of at most `max_windows` unless one work alone is larger."""
    batches: list[list[_Work]] = []
    open_batches: dict[int, tuple[list[_Work], int]] = {}
    for work in works:
        batch, size = open_batches.get(id(work.network), ([], max_windows))
        if size + work.num_windows > max_windows:
            batch, size = [], 0
            batches.append(batch)
        batch.append(work)
        open_batches[id(work.network)] = (batch, size + work.num_windows)
    return batches


def _concatenate(inputs: Sequence[ForecastInputs]) -> ForecastInputs:
    return ForecastInputs(*(torch.cat(tensors) for tensors in zip(*inputs, strict=True)))


def _deliver(loop: asyncio.AbstractEventLoop, answers: Sequence[tuple[_Work, NDArray[np.float32] | Exception]]) -> None:
    """Hand answers to their event loop, waking it once for all of them."""
    try:
        loop.call_soon_threadsafe(_resolve, answers)
    except RuntimeError:
        logger.warning("the event loop closed before %d request(s) were answered", len(answers))


def _resolve(answers: Sequence[tuple[_Work, NDArray[np.float32] | Exception]]) -> None:
    for work, answer in answers:
        if work.future.done():  # its client left, or its deadline passed, while the batch ran
            continue
        if isinstance(answer, Exception):
            work.future.set_exception(answer)
        else:
            work.future.set_result(answer)
