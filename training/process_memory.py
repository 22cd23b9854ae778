"""Resident memory of a process: what it holds, the most it held, and what the libraries alone of a training take."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import training
from training.machine_cache import remembered

# Imported by the first step of a run, at its latest; each was found among the modules of a run that had ended.
READERS = ("pandas", "pyarrow.dataset", "pyarrow.parquet")
RUN_MODULES = (
    "training.commands.train", "training.mending", "training.progress", "training.tracking.mlflow_tracker",
    "training.launching", *READERS,
)  # fmt: skip
MEASURE_SECONDS = 120.0
_DECIDING_PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "matplotlib", "gradcast")
_LEAST, _MOST = 50 * 10**6, 10 * 10**9
_KIB = 1024


def resident_bytes() -> int:
    """What this process holds now; where the system does not say, the most it held."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_bytes()
    return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """The most this process held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process was before it began to run this program
        lines = status.read_text(encoding="utf-8").splitlines()
        found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        if found:
            return int(found[0]) * _KIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * _KIB


class MemoryGrowth:
    """How the memory of this process grows within a `with` block.

    Attributes:
        kept: Bytes more at the end than at the beginning.
        peak: Most bytes above the beginning.
    """

    kept = 0
    peak = 0

    def __enter__(self) -> Self:
        """Begin."""
        self._resident, self._highest = resident_bytes(), peak_bytes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Compare; a peak that lies before the block is none of it."""
        self.kept = max(resident_bytes() - self._resident, 0)
        highest = peak_bytes()
        self.peak = max(highest - self._resident, self.kept) if highest > self._highest else self.kept


def load_readers() -> None:
    """Import what reads data, so that it is not taken for the data's own memory."""
    for name in READERS:
        importlib.import_module(name)


def library_bytes() -> int | None:
    """Resident memory of a training process that has read no data yet: interpreter, torch, everything else imported.

    Measured by a process of its own, once per machine and versions. MLflow is not part of it: it lives in another process.

    Returns:
        Bytes; None where no process can be started.
    """
    question = {
        "python": sys.version, "platform": platform.platform(), "modules": list(RUN_MODULES),
        "versions": {name: _version(name) for name in _DECIDING_PACKAGES},
    }  # fmt: skip
    try:
        return remembered("libraries", question, _measure_libraries, _LEAST, _MOST)[0]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return ""


def _measure_libraries() -> int:
    root = str(Path(next(iter(training.__path__))).parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "training.process_memory"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=MEASURE_SECONDS, check=True)  # noqa: S603  our own command
    return int(done.stdout)


def _live_as_a_run() -> None:
    """Import and begin to use what a run uses, with its allocator."""
    from training.allocator import keep_freed_memory

    keep_freed_memory()
    for name in RUN_MODULES:
        importlib.import_module(name)
    import torch

    from training.plots import figure_to_png, plot_losses

    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight]).step()
    figure_to_png(plot_losses([1], [1.0], [1], [1.0]))


if __name__ == "__main__":
    _live_as_a_run()
    sys.stdout.write(f"{peak_bytes()}\n")
