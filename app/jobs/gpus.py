"""Which NVIDIA cards this process may give to trainings; found without torch, which takes seconds and memory to ask.

A card is named by its UUID: the same in every container and in any order of counting, and what CUDA_VISIBLE_DEVICES takes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")
SECONDS = 20.0
_LISTED = re.compile(r"^\s*(?:GPU \d+|MIG .+?Device\s+\d+):.*?\(UUID: ((?:GPU|MIG)-[\w/-]+)\)", re.MULTILINE)
_DRIVEN = re.compile(r"^GPU UUID:\s*(GPU-[\w-]+)", re.MULTILINE)


def find_gpus(environment: Mapping[str, str], driver: Path = DRIVER) -> tuple[str, ...]:
    """The cards, as far as CUDA_VISIBLE_DEVICES shows them.

    Args:
        environment: Where programs are looked for, and what is visible.
        driver: Where the kernel's driver lists cards, for images without `nvidia-smi`.

    Returns:
        UUIDs of cards, and of their instances (MIG) where a card is divided; empty where there are none.
    """
    return _visible(_listed(environment) or _driven(driver), environment.get(VISIBLE))


def _listed(environment: Mapping[str, str]) -> tuple[str, ...]:
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return ()
    try:
        ended = subprocess.run(  # noqa: S603  the driver's own program, no shell
            [program, "-L"], capture_output=True, text=True, check=False, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return _undivided(_LISTED.findall(ended.stdout)) if ended.returncode == 0 else ()


def _undivided(found: list[str]) -> tuple[str, ...]:
    """A divided card can be used by its instances alone, which are listed below it."""
    is_divided = [below.startswith("MIG") and one.startswith("GPU") for one, below in pairwise([*found, ""])]
    return tuple(one for one, divided in zip(found, is_divided, strict=True) if not divided)


def _driven(driver: Path) -> tuple[str, ...]:
    texts = []
    for entry in sorted(driver.glob("*/information")):
        try:
            texts.append(entry.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
    return tuple(found[1] for text in texts if (found := _DRIVEN.search(text)) is not None)


def _visible(found: tuple[str, ...], shown: str | None) -> tuple[str, ...]:
    """What a list of numbers or UUIDs shows; like CUDA, it ends at the first entry that is no card."""
    if shown is None:
        return found
    chosen: list[str] = []
    for word in shown.split(","):
        name = word.strip()
        match = found[int(name) : int(name) + 1] if name.isdecimal() else [one for one in found if name and one.startswith(name)]
        if len(match) != 1 or match[0] in chosen:
            break
        chosen.append(match[0])
    return tuple(chosen)
