"""All targets by name, each with its seeds and its part of the corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz.mutations import read_corpus, seeds
from tests.fuzz.routes import RoutesTarget
from tests.fuzz.targets import BundleTarget, CheckpointTarget, ConfigTarget, PackedBodyTarget, ReaderTarget, Target

CORPUS = Path(__file__).parent / "corpus"
MAKERS: dict[str, Callable[[Path], Target]] = {
    "reader": ReaderTarget, "config": ConfigTarget, "bundle": BundleTarget, "routes": RoutesTarget,
    "packed": lambda _folder: PackedBodyTarget(), "checkpoint": CheckpointTarget,
}  # fmt: skip


def build_target(name: str, folder: Path) -> tuple[Target, list[bytes]]:
    """A target with a place of its own.

    Args:
        name: Key of `MAKERS`.
        folder: Its place; made.

    Returns:
        The target, and what to feed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = MAKERS[name](folder)
    has_seeds = isinstance(target, RoutesTarget | BundleTarget | PackedBodyTarget | CheckpointTarget)
    own: list[bytes] = target.seeds() if has_seeds else []
    return target, [*seeds(name), *own, *read_corpus(CORPUS / name)]


def close_target(target: Target) -> None:
    """End what a target started."""
    if isinstance(target, RoutesTarget):
        target.close()
