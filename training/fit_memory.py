"""Memory of a fit before its first step: counted from the network and a few windows, and measured in a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.forecaster import RecurrentForecaster
from models.initialization import GATES
from training.config import OptimizerConfig
from training.data.panel import Panel
from training.data.windows import WindowBatch
from training.loop import VALIDATION_BATCH
from training.preparation import Prepared
from training.process_memory import MemoryGrowth

# What an optimizer keeps per weight besides the weight and its gradient.
_MOMENTS = {"sgd": 0, "nesterov": 0, "rmsprop": 1, "adagrad": 1, "adam": 2, "adamw": 2, "nadam": 2, "radam": 2}
# While one layer is differentiated, its inputs, outputs and their gradients are held beside what autograd saved; and the
# windows themselves as gathered, standardised and joined. With both the estimate lay between 0.7 and 1.6 of the measured
# peak (linear, rnn, gru, lstm; 64 to 256 units, one and two layers, batches of 64 to 2048).
_SEQUENCES_IN_FLIGHT = 3
_COPIES_OF_A_BATCH = 3


@dataclass(frozen=True)
class ProcessMemory:
    """The most that the training process will hold resident, interpreter and libraries included.

    Attributes:
        libraries: Interpreter, torch and everything else imported, before any data.
        preparation: What reading the data and looking for its need takes, the panel included.
        fit: What the fit, its checks and the backtest take on top.
    """

    libraries: int
    preparation: int
    fit: int

    @property
    def peak(self) -> int:
        """All of it: freed memory stays with the process."""
        return self.libraries + self.preparation + self.fit


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a fit holds beside the process itself, and what the process as a whole will hold.

    The weights, one gradient per weight, what the optimizer keeps per weight (two numbers for Adam and its kin); the
    activations that autograd saves for one batch, counted on a few windows and scaled by the batch, with three copies of
    the windows and three sequences of a layer while it is differentiated - or what validation holds, if that is more;
    the panel.

    Attributes:
        weights: Parameters.
        gradients: One per parameter.
        optimizer: Moments.
        activations: Of one batch.
        panel: The series, as far as they are not mapped from a file.
        process: Peak of the training process; None where it was not measured.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    panel: int
    process: ProcessMemory | None = None

    @property
    def total(self) -> int:
        """What the fit holds beside the process."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.panel


def estimate_memory(prepared: Prepared, held: int, process: ProcessMemory | None) -> MemoryEstimate:
    """Put counted and measured bytes together.

    Args:
        prepared: Data and network.
        held: What autograd saves for a batch, and the batch.
        process: Peak of the process, if it was measured.
    """
    config, network = prepared.config, prepared.forecaster
    weights = weight_bytes(network)
    sequence = 0
    if isinstance(network, RecurrentForecaster):
        sequence = network.config.num_updates * config.model.hidden_size * next(network.parameters()).element_size()
    gates = max((len(GATES.get(layer.partition(".")[0], ())) for layer in network.layers()), default=0) or 1
    training = held + _SEQUENCES_IN_FLIGHT * config.fit.batch_size * sequence
    validation = (gates + 2) * VALIDATION_BATCH * sequence
    optimizer = weights * num_moments(config.optimizer)
    activations = max(training, validation)
    return MemoryEstimate(weights, weights, optimizer, activations, _panel_bytes(prepared.panel), process)


def predict_process(
    prepared: Prepared, libraries: int, preparation: MemoryGrowth, rehearsal: MemoryGrowth, share: float
) -> ProcessMemory:
    """The peak of a training process, from how this one grew while it did the same.

    Args:
        prepared: Data and network.
        libraries: Of a process without data.
        preparation: How this process grew while it read the data.
        rehearsal: How it grew while it trained, validated and forecast once.
        share: Windows of a batch that the rehearsal took; its growth is scaled up by the rest.
    """
    moments = weight_bytes(prepared.forecaster) * num_moments(prepared.config.optimizer)
    fit = int(rehearsal.peak / share) + moments
    # A part of what was read is free again when the fit begins.
    return ProcessMemory(libraries, preparation.kept, max(fit, preparation.peak - preparation.kept))


def weight_bytes(network: nn.Module) -> int:
    """Of all parameters."""
    return sum(parameter.nbytes for parameter in network.parameters())


def num_moments(optimizer: OptimizerConfig) -> int:
    """Numbers that an optimizer keeps per weight."""
    return _MOMENTS[optimizer.name] + (optimizer.momentum > 0)


def batch_bytes(batch: WindowBatch) -> int:
    """What a batch takes while it is gathered, standardised and joined."""
    return _COPIES_OF_A_BATCH * sum(part.nbytes for part in (*batch.inputs, batch.target, batch.target_mask))


def _panel_bytes(panel: Panel) -> int:
    arrays = [value for value in vars(panel).values() if isinstance(value, np.ndarray)]
    return sum(array.nbytes for array in arrays if not isinstance(array, np.memmap))


class SavedBytes:
    """Counts what autograd saves for the backward pass, weights left out."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        # Every storage is kept alive until the end, or its address might be given to another and counted once.
        self._seen: dict[int, Tensor] = {}

    @property
    def total(self) -> int:
        """Bytes of all distinct storages."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._seen.values())

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Within it every saved tensor is counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in self._weights:
            self._seen[address] = tensor.detach()
        return tensor
