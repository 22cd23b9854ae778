"""pytorch-forecasting's RecurrentNetwork with LSTM cells."""

from __future__ import annotations

import logging
import time
import warnings

from fit_job import (
    BATCH_SIZE,
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
import lightning.pytorch as lightning  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from pytorch_forecasting import RecurrentNetwork, TimeSeriesDataSet  # noqa: E402
from pytorch_forecasting.data import TorchNormalizer  # noqa: E402
from pytorch_forecasting.metrics import MAE  # noqa: E402

logging.disable(logging.WARNING)
import_seconds = time.perf_counter() - STARTED
arguments = read_arguments()
torch.set_num_threads(arguments.threads)
started = time.perf_counter()
frame = pd.DataFrame(
    {
        "series": np.repeat(np.arange(NUM_SERIES), NUM_ROWS).astype(str),
        "row": np.tile(np.arange(NUM_ROWS), NUM_SERIES),
        "y": build_values().reshape(-1),
    }
)
dataset = TimeSeriesDataSet(
    frame,
    time_idx="row",
    target="y",
    group_ids=["series"],
    min_encoder_length=arguments.context_length,
    max_encoder_length=arguments.context_length,
    min_prediction_length=HORIZON,
    max_prediction_length=HORIZON,
    time_varying_unknown_reals=["y"],
    target_normalizer=TorchNormalizer(method="identity"),
    add_relative_time_idx=False,
    add_target_scales=False,
)
loader = dataset.to_dataloader(train=True, batch_size=BATCH_SIZE, num_workers=0)
network = RecurrentNetwork.from_dataset(
    dataset,
    cell_type="LSTM",
    hidden_size=arguments.hidden_size,
    rnn_layers=arguments.num_layers,
    dropout=0.0,
    loss=MAE(),
    learning_rate=LEARNING_RATE,
    optimizer="adam",
    logging_metrics=torch.nn.ModuleList([]),
    log_interval=-1,
)
clock = StepClock(arguments)
trainer = lightning.Trainer(
    accelerator="cpu",
    max_steps=arguments.steps,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[lightning_callback(lightning.Callback, clock)],
)
trainer.fit(network, loader)
prepare_seconds = time.perf_counter() - started - (clock.ends[-1] - clock.ends[0])
report(clock, import_seconds, prepare_seconds, sum(weight.numel() for weight in network.parameters()))
