"""Mixed precision, in one place: a step and whatever repeats it must compute alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float64"]
# Of the weights.
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision if it is asked for."""
    if precision != "bfloat16":
        return nullcontext()
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001  no public way to ask
        return _without_onednn()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Mixed precision on a processor whose oneDNN has no LSTM in bfloat16 and ends the fit instead of saying so."""
    was_enabled = torch._C._get_mkldnn_enabled()  # noqa: SLF001  torch.backends.mkldnn.flags warns about GPUs
    torch._C._set_mkldnn_enabled(False)  # noqa: SLF001
    try:
        with torch.autocast("cpu", torch.bfloat16):
            yield
    finally:
        torch._C._set_mkldnn_enabled(was_enabled)  # noqa: SLF001
