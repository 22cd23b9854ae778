"""Resumable state in one file: tensors by name, everything else as JSON in the header. Nothing is pickled.

One file and one rename: a kill at any moment leaves the previous checkpoint or the new one, never half of each.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from training.errors import CheckpointError

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
_DOCUMENT = "gradcast"


def write_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], keep_as: Path | None = None
) -> None:
    """Write tensors and a JSON document as one file, all or nothing, surviving a power cut.

    Args:
        path: The file.
        tensors: Any device; stored as they are.
        document: JSON values; infinities allowed.
        keep_as: Where the file that is replaced goes on living; None = nowhere.

    Raises:
        OSError: If the disk refuses; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={_DOCUMENT: json.dumps(document)},
    )
    staging = path.with_suffix(".tmp")
    try:
        with staging.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:  # a failed write does not say of which file
        with contextlib.suppress(OSError):
            staging.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
    if keep_as is not None and path.exists():
        path.replace(keep_as)
    staging.replace(path)


def find_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of a run that can be read; None if there is none at all.

    A disk that lost power, or a copy that was cut short, may leave a damaged file: then the one before it counts.

    Raises:
        CheckpointError: If there are some, all damaged.
    """
    present = [path for path in (directory / LAST, directory / PREVIOUS) if path.exists()]
    failure: CheckpointError | None = None
    for path in present:
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            failure = failure or error
        else:
            return path
    if failure is not None:
        raise failure
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote.

    Raises:
        CheckpointError: If the file is absent or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})[_DOCUMENT])
            return {name: file.get_tensor(name) for name in file.keys()}, document  # noqa: SIM118  not a dict
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            str(path), "a readable checkpoint", f"not: {error}", "Start again without --resume."
        ) from None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entry in state.items()
        for name, value in entry.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned; rates and options stay those of the configuration."""
    document = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = tensor
    document["state"] = state
    optimizer.load_state_dict(document)


def random_state(generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """States of the random generators a fit draws from."""
    states = {"random.windows": generator.get_state(), "random.torch": torch.get_rng_state()}
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(tensors: Mapping[str, Tensor], generator: torch.Generator, device: torch.device) -> None:
    """Put the random generators back."""
    generator.set_state(tensors["random.windows"])
    torch.set_rng_state(tensors["random.torch"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers of a network under `network.`."""
    return {f"network.{name}": tensor for name, tensor in network.state_dict().items()}


def restore_network(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put weights and buffers back.

    Raises:
        CheckpointError: If they belong to another network.
    """
    state = {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise CheckpointError(
            str(path), "of the configured network", "of another one", "Start again without --resume."
        ) from None
