"""darts' BlockRNNModel with LSTM cells."""

from __future__ import annotations

import time
import warnings

from fit_job import (
    BATCH_SIZE,
    FIRST_HOUR,
    HORIZON,
    LEARNING_RATE,
    NUM_ROWS,
    STARTED,
    StepClock,
    build_values,
    lightning_callback,
    read_arguments,
    report,
)

warnings.filterwarnings("ignore")
import pandas as pd  # noqa: E402
import pytorch_lightning as lightning  # noqa: E402
import torch  # noqa: E402
from darts import TimeSeries  # noqa: E402
from darts.models import BlockRNNModel  # noqa: E402

import_seconds = time.perf_counter() - STARTED
arguments = read_arguments()
torch.set_num_threads(arguments.threads)
started = time.perf_counter()
hours = pd.date_range(FIRST_HOUR, periods=NUM_ROWS, freq="h")
series = [TimeSeries.from_times_and_values(hours, values[:, None]) for values in build_values()]
clock = StepClock(arguments)
model = BlockRNNModel(
    model="LSTM",
    input_chunk_length=arguments.context_length,
    output_chunk_length=HORIZON,
    hidden_dim=arguments.hidden_size,
    n_rnn_layers=arguments.num_layers,
    batch_size=BATCH_SIZE,
    n_epochs=1000,
    loss_fn=torch.nn.L1Loss(),
    optimizer_kwargs={"lr": LEARNING_RATE},
    random_state=0,
    save_checkpoints=False,
    log_tensorboard=False,
    pl_trainer_kwargs={
        "accelerator": "cpu",
        "max_steps": arguments.steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [lightning_callback(lightning.Callback, clock)],
    },
)
model.fit(series)
prepare_seconds = time.perf_counter() - started - (clock.ends[-1] - clock.ends[0])
report(clock, import_seconds, prepare_seconds, sum(weight.numel() for weight in model.model.parameters()))
