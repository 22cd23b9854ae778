"""Mixed precision, in one place: a step and whatever repeats it must compute alike."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float64"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision if it is asked for."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
