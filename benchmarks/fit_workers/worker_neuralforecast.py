"""neuralforecast's LSTM, direct over the horizon. Variant: number of series per batch (its own default is 32)."""

from __future__ import annotations

import time
import warnings

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
    lightning_callback,
    read_arguments,
    report,
)

warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytorch_lightning as lightning  # noqa: E402
import torch  # noqa: E402
from neuralforecast import NeuralForecast  # noqa: E402
from neuralforecast.losses.pytorch import MAE  # noqa: E402
from neuralforecast.models import LSTM  # noqa: E402

import_seconds = time.perf_counter() - STARTED
arguments = read_arguments()
torch.set_num_threads(arguments.threads)
frame = pd.DataFrame(
    {
        "unique_id": np.repeat(np.arange(NUM_SERIES), NUM_ROWS),
        "ds": np.tile(pd.date_range(FIRST_HOUR, periods=NUM_ROWS, freq="h"), NUM_SERIES),
        "y": build_values().reshape(-1),
    }
)
clock = StepClock(arguments)
model = LSTM(
    h=HORIZON,
    input_size=arguments.context_length,
    encoder_n_layers=arguments.num_layers,
    encoder_hidden_size=arguments.hidden_size,
    encoder_dropout=0.0,
    decoder_layers=1,
    decoder_hidden_size=arguments.hidden_size,
    recurrent=False,
    loss=MAE(),
    learning_rate=LEARNING_RATE,
    max_steps=arguments.steps,
    batch_size=int(arguments.variant or 32),
    windows_batch_size=BATCH_SIZE,
    scaler_type="identity",
    val_check_steps=10**9,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[lightning_callback(lightning.Callback, clock)],
)
forecast = NeuralForecast(models=[model], freq="h")
started = time.perf_counter()
forecast.fit(frame)
prepare_seconds = time.perf_counter() - started - (clock.ends[-1] - clock.ends[0])
report(clock, import_seconds, prepare_seconds, sum(weight.numel() for weight in forecast.models[0].parameters()))
