"""Resumable state in one file without pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.checkpoint import (
    optimizer_tensors,
    random_state,
    read_checkpoint,
    restore_optimizer,
    restore_random_state,
    write_checkpoint,
)
from training.config import OptimizerConfig
from training.errors import CheckpointError
from training.optimizers import build_optimizer


@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "nadam", "radam"])
def test_an_optimizer_restored_from_a_file_goes_on_as_if_nothing_happened(tmp_path: Path, name: str) -> None:
    """Three updates, a file, three more: the same weights to the bit as six updates."""
    config = OptimizerConfig(
        name=name, learning_rate=0.05, momentum=0.9 if name in ("sgd", "nesterov", "rmsprop") else 0.0
    )

    def advance(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            weight.grad = torch.sin(weight.detach() * (step + 1))
            optimizer.step()

    start = torch.linspace(-1, 1, 7)
    one = torch.nn.Parameter(start.clone())
    optimizer = build_optimizer(config, [one], torch.device("cpu"))
    advance(one, optimizer, 0, 3)
    write_checkpoint(tmp_path / "c.safetensors", optimizer_tensors(optimizer) | {"weight": one}, {"step": 3})
    advance(one, optimizer, 3, 6)

    tensors, document = read_checkpoint(tmp_path / "c.safetensors")
    two = torch.nn.Parameter(tensors["weight"])
    resumed = build_optimizer(config, [two], torch.device("cpu"))
    restore_optimizer(resumed, tensors)
    advance(two, resumed, 3, 6)
    assert document == {"step": 3}
    assert torch.equal(one, two)


def test_random_generators_continue(tmp_path: Path) -> None:
    """Window draws and dropout go on where they were."""
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(6)
    write_checkpoint(tmp_path / "c.safetensors", random_state(generator, torch.device("cpu")), {})
    expected = (torch.rand(3, generator=generator), torch.rand(3))
    tensors, _ = read_checkpoint(tmp_path / "c.safetensors")
    restore_random_state(tensors, generator, torch.device("cpu"))
    assert torch.equal(torch.rand(3, generator=generator), expected[0])
    assert torch.equal(torch.rand(3), expected[1])


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\xff" * 100])
def test_a_damaged_checkpoint_is_refused_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    """No traceback of the file format."""
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="without --resume"):
        read_checkpoint(tmp_path / "c.safetensors")


def test_a_torn_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """A temporary file beside it is ignored."""
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, {"a": torch.ones(1)}, {"step": 1})
    path.with_suffix(".tmp").write_bytes(b"half of the next")
    assert read_checkpoint(path)[1] == {"step": 1}
