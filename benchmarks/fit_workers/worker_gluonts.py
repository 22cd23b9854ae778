"""gluonts' DeepAR in PyTorch: Student's t output; one lag and no time features, as the job has none."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings

from fit_job import (
    BATCH_SIZE,
    FIRST_HOUR,
    HORIZON,
    LEARNING_RATE,
    STARTED,
    StepClock,
    build_values,
    lightning_callback,
    read_arguments,
    report,
)

warnings.filterwarnings("ignore")
import lightning.pytorch as lightning  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from gluonts.dataset.common import ListDataset  # noqa: E402
from gluonts.torch import DeepAREstimator  # noqa: E402

logging.disable(logging.WARNING)
import_seconds = time.perf_counter() - STARTED
arguments = read_arguments()
torch.set_num_threads(arguments.threads)
started = time.perf_counter()
start = pd.Period(FIRST_HOUR, freq="h")
dataset = ListDataset([{"start": start, "target": values} for values in build_values()], freq="h")
clock = StepClock(arguments)
with tempfile.TemporaryDirectory() as directory:
    estimator = DeepAREstimator(
        freq="h",
        prediction_length=HORIZON,
        context_length=arguments.context_length,
        num_layers=arguments.num_layers,
        hidden_size=arguments.hidden_size,
        dropout_rate=0.0,
        lr=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        num_batches_per_epoch=arguments.steps,
        scaling=False,
        lags_seq=[1],
        time_features=[],
        trainer_kwargs={
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": directory,
            "callbacks": [lightning_callback(lightning.Callback, clock)],
        },
    )
    predictor = estimator.train(dataset)
prepare_seconds = time.perf_counter() - started - (clock.ends[-1] - clock.ends[0])
report(clock, import_seconds, prepare_seconds, sum(weight.numel() for weight in predictor.prediction_net.parameters()))
