"""Processes of the product that start in milliseconds and that a test may break: forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    "mlflow.tracking", "mlflow.pyfunc", "training.commands.train", "training.mending", "training.tracking.mlflow_tracker",
    "training.tracking.sink", "app.main", "app.jobs.worker", "dbos", "uvicorn", "sqlalchemy.dialects.sqlite",
    "torch._dynamo",  # what building an optimizer imports
]  # fmt: skip
# What a training does, in order: where it is when the function is entered.
PHASES = {
    "prepare": "training.pipeline:prepare",
    "open": "training.pipeline:describe_run",
    "fit": "training.loop:train_step",
    "check": "training.loop:validation_loss",
    "backtest": "training.evaluation:Evaluation.run_all",
    "publish": "training.pipeline:save_bundle",
    "register": "training.pipeline:_register",
    "finish": "training.tracking.mlflow_tracker:MlflowTracker.finish",
}
_CAPABILITY_VERSION = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER = 1, 2, 3


@functools.cache
def fork_server() -> ForkServerContext:
    """Where children come from; its imports are paid once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a child.

    Attributes:
        kind: `signal`, `disk_full`, `clock`, or `none`.
        phase: When: at the n-th entry of this phase.
        entry: n, from 1.
        value: Number of the signal, or seconds that the clock jumps.
    """

    kind: str = "none"
    phase: str = "fit"
    entry: int = 1
    value: float = 0.0

    def install(self) -> None:
        """Prepare it in this process."""
        if self.kind == "none":
            return
        module_name, _, path = PHASES[self.phase].partition(":")
        owner: Any = importlib.import_module(module_name)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        original, entries = getattr(owner, name), [0]

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            entries[0] += 1
            if entries[0] == self.entry:
                self.happen()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    def happen(self) -> None:
        """Now."""
        if self.kind == "signal":
            os.kill(os.getpid(), int(self.value))
        elif self.kind == "disk_full":
            fill_disk("training.checkpoint")
        elif self.kind == "clock":
            step_clock(self.value)


def fill_disk(module_name: str) -> None:
    """Every fsync of a module finds the disk full from now on."""
    importlib.import_module(module_name).os = _FullDisk()


class _FullDisk:
    """`os` of a machine without room."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, _descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def step_clock(seconds: float) -> None:
    """The wall clock jumps; the monotonic one does not."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)


def drop_privileges() -> None:
    """What is read-only is read-only for root too."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    class Data(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))

    header, data = Header(_CAPABILITY_VERSION, 0), (Data * 2)()
    library = ctypes.CDLL(None, use_errno=True)
    library.capget(ctypes.byref(header), data)
    for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER):
        data[0].effective &= ~(1 << capability)
    library.capset(ctypes.byref(header), data)


def start(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Run a function of a test module in a child."""
    process = fork_server().Process(target=function, args=arguments)
    process.start()
    return process


def settle(folder: Path, log: str) -> None:
    """A child's own place: directory, output in a file, one thread, a session of its own."""
    os.setsid()
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("GRADCAST_", "MLFLOW_TRACKING"))]:
        del os.environ[name]
    descriptor = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    import torch

    torch.set_num_threads(1)


def run_command(folder: Path, words: list[str], fault: Fault, read_only: bool = False) -> None:
    """`gradcast WORDS` in this child; figures, which no fault is about, are left out."""
    settle(folder, "train.log")
    from training import pipeline
    from training.cli import main
    from training.commands import train
    from training.tracking.environment import resolve_uri
    from training.tracking.mlflow_tracker import MlflowTracker

    pipeline.write_reports = lambda *_args, **_kwargs: None
    pipeline.log_outcome = _log_without_figures
    # The process that sends is killed by other tests; here a thread spares its imports.
    train.build_tracker = lambda config: MlflowTracker(resolve_uri(config.tracking), in_process=True)
    if read_only:
        drop_privileges()
    fault.install()
    code = main(words)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def _log_without_figures(tracker: Any, run: Any, state: Any, backtests: Any, verdict: Any, note: str, _unit: Any) -> None:
    from training.evaluation import finite_metrics
    from training.reporting import verdict_tags

    tracker.log_tags(verdict_tags(verdict))
    metrics = finite_metrics(backtests)
    tracker.log_metrics({key: value for key, value in metrics.items() if value is not None}, state.step)
    tracker.log_note(note)
    tracker.log_artifact(run.bundle, "bundle")


def kill_group(process: ForkServerProcess) -> None:
    """End a child and what it started, at once; one that has ended already is left alone, its number may be another's."""
    if process.exitcode is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()
