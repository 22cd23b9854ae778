"""One point of the cost curves: prepare, take some steps, check once; in a process of its own, for its memory is measured.

Prints one line `RESULT {...}`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from training.allocator import keep_freed_memory

keep_freed_memory()

import torch  # noqa: E402

from training.config import load_config  # noqa: E402
from training.data.context import write_context  # noqa: E402
from training.fit_disk import mapped_bytes  # noqa: E402
from training.loop import Fit  # noqa: E402
from training.pipeline import build_fit  # noqa: E402
from training.preparation import prepare  # noqa: E402
from training.process_memory import load_readers, peak_bytes, resident_bytes  # noqa: E402
from training.progress import SILENT_PROGRESS  # noqa: E402
from training.run_directory import RunDirectory  # noqa: E402
from training.tracking.tracker import NOOP_TRACKER  # noqa: E402


def time_steps(fit: Fit, steps: int) -> tuple[float, float]:
    """Clock and processor seconds per step."""
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        fit._step()  # noqa: SLF001  the step as the fit runs it
    return (time.perf_counter() - clock) / steps, (time.process_time() - processor) / steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load_readers()
    settings = [
        *arguments.set,
        "fit.max_steps=1000000",
        "fit.patience=null",
        "gradients.need_steps=24",
        "model.horizon=24",
    ]
    before, started, computed = resident_bytes(), time.perf_counter(), time.process_time()
    prepared = prepare(load_config(None, settings, {"data.path": arguments.data}))
    found: dict[str, Any] = {
        "prepare_clock": time.perf_counter() - started, "prepare_processor": time.process_time() - computed,
        "prepare_bytes": peak_bytes() - before,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        run = RunDirectory.create(prepared.config, Path(place) / "run")
        fit, _ = build_fit(prepared, run, NOOP_TRACKER, SILENT_PROGRESS)
        fit.forecaster.train()
        time_steps(fit, 5)
        found["step_clock"], found["step_processor"] = time_steps(fit, arguments.steps)
        fit._check()  # noqa: SLF001  validation and checkpoints, as at the end of a fit
        weights = sum(parameter.nbytes for parameter in prepared.forecaster.parameters())
        written = sum(path.stat().st_size for path in run.checkpoints.iterdir())
        context = len(write_context(prepared.panel, None, prepared.forecaster.config.context_length))
    found |= {
        "weights_bytes": weights, "disk_bytes": written + weights + context, "context_bytes": context,
        "map_bytes": mapped_bytes(prepared.panel), "peak_bytes": peak_bytes(), "growth_bytes": peak_bytes() - before,
    }  # fmt: skip
    sys.stdout.write(f"RESULT {json.dumps(found)}\n")


if __name__ == "__main__":
    main()
