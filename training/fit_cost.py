"""What a fit will cost, from a few real steps on a copy of the network: memory and disk in bytes, time in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.errors import NumericalError
from training.fit_disk import DiskEstimate, estimate_disk
from training.fit_memory import MemoryEstimate, SavedBytes, batch_bytes, estimate_memory, predict_process
from training.fit_time import FitTime, Rehearsal
from training.preparation import Prepared
from training.process_memory import MemoryGrowth, library_bytes


@dataclass(frozen=True)
class FitCost:
    """Memory, time, disk, and whether the first step works at all.

    Attributes:
        memory: In bytes.
        disk: In bytes.
        time: In seconds; None if the first step failed.
        failure: Why it failed: a loss or a gradient that is not finite.
    """

    memory: MemoryEstimate
    disk: DiskEstimate
    time: FitTime | None
    failure: str | None


def measure_cost(prepared: Prepared, preparation: MemoryGrowth | None = None) -> FitCost:
    """Run a few steps on a copy, with as many threads as the fit; network, gradients and random states stay as they are.

    Args:
        prepared: Data and network.
        preparation: How this process grew while it prepared them. Given by a process that has done nothing else: then it
            grows as the training process will, and that one's memory is predicted too.
    """
    duration, failure, process = None, None, None
    with torch.random.fork_rng():
        with MemoryGrowth() as growth:
            rehearsal = Rehearsal(prepared)
            size = rehearsal.size
            saved = SavedBytes(rehearsal.network)
            sample = rehearsal.draw(size)
            try:
                with saved.counting():
                    rehearsal.take_step(sample)
                duration = rehearsal.measure()
            except NumericalError as error:
                failure = str(error)
            held = (saved.total + batch_bytes(sample)) * prepared.config.fit.batch_size // size
            del saved, sample
            if preparation is not None and failure is None:
                rehearsal.rehearse_backtest()
        if preparation is not None and failure is None and (libraries := library_bytes()) is not None:
            process = predict_process(prepared, libraries, preparation, growth, rehearsal.share)
    return FitCost(
        estimate_memory(prepared, held, process), estimate_disk(prepared, rehearsal.readings_bytes), duration, failure
    )
