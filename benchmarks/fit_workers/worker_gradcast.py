"""gradcast, as `gradcast train` runs it: gradient norms measured, metrics tracked in MLflow through the spool.

It is the beginning of a fit with the default budget, in which norms are kept at every tenth step and the gradient is
looked at after every hundredth; a fit of as few steps as are timed would look far more often. Variant empty: the common
job (point head, absolute error, no scaler, no calendar). Variant `defaults`: quantile head, scaler and calendar features
as a user gets them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from fit_job import (
    BATCH_SIZE,
    FIRST_HOUR,
    HORIZON,
    LEARNING_RATE,
    NUM_ROWS,
    NUM_SERIES,
    STARTED,
    StepClock,
    build_values,
    read_arguments,
    report,
    repository,
)

sys.path.insert(0, str(repository()))
from training.allocator import keep_freed_memory

keep_freed_memory()
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from training import pipeline, preparation, reporting  # noqa: E402
from training.commands.train import build_tracker  # noqa: E402
from training.config import build_config  # noqa: E402
from training.following import send_assignment  # noqa: E402
from training.launching import open_team  # noqa: E402
from training.loop import FitInterruptedError  # noqa: E402
from training.progress import SILENT_PROGRESS  # noqa: E402
from training.run_directory import RunDirectory  # noqa: E402

import_seconds = time.perf_counter() - STARTED
BUDGET = 2000
COMMON_JOB = {"head": "point", "scaler": "none", "skip": "none"}


def main() -> None:
    """Train and report."""
    arguments = read_arguments()
    common = arguments.variant != "defaults"
    with tempfile.TemporaryDirectory() as directory, open_team(arguments.workers) as team:
        os.chdir(directory)
        frame = pd.DataFrame(
            {
                "unique_id": np.repeat(np.arange(NUM_SERIES).astype(str), NUM_ROWS),
                "ds": np.tile(pd.date_range(FIRST_HOUR, periods=NUM_ROWS, freq="h"), NUM_SERIES),
                "y": build_values().reshape(-1),
            }
        )
        frame.to_parquet(Path(directory) / "panel.parquet", index=False)
        started = time.perf_counter()
        budget = max(BUDGET, arguments.steps)
        shape = {
            "context_length": arguments.context_length,
            "horizon": HORIZON,
            "hidden_size": arguments.hidden_size,
            "num_layers": arguments.num_layers,
        }
        config = build_config(
            {
                "data": {"path": str(Path(directory) / "panel.parquet"), "calendar": "none" if common else "auto"},
                "model": shape | (COMMON_JOB if common else {}),
                "optimizer": {"name": "adam", "learning_rate": LEARNING_RATE, "schedule": "constant"},
                "fit": {
                    "max_steps": budget,
                    "batch_size": BATCH_SIZE,
                    "loss": "mae" if common else "auto",
                    "val_check_steps": budget,  # the libraries do not validate during the job either
                    "num_threads": arguments.threads,
                },
                "tracking": {"uri": "sqlite:///mlruns/mlflow.db", "register": False},
            }
        )
        prepared = preparation.prepare(config)
        run = RunDirectory.create(prepared.config, Path("run"))
        tracker = build_tracker(prepared.config)
        tracker.start(reporting.describe_run(prepared, run))
        clock = StepClock(arguments)

        def after_step() -> bool:
            clock.tick()
            return clock.is_over

        fit, _ = pipeline.build_fit(prepared, run, tracker, SILENT_PROGRESS, after_step, team=team)
        prepare_seconds = time.perf_counter() - started
        send_assignment(team, prepared)
        with contextlib.suppress(FitInterruptedError):
            fit.run()
        clock.ends.pop()  # the last step may be followed by the validation check
        num_unsent = tracker.finish("FINISHED")
        assert num_unsent == 0, f"{num_unsent} events did not reach the store"
        os.chdir("/")
    report(clock, import_seconds, prepare_seconds, sum(weight.numel() for weight in prepared.forecaster.parameters()))


main()
