"""What a library does with a parquet file before its first training step, as its users write it; prints seconds as JSON.

Run with the interpreter of the library's own environment: `python benchmarks/prepare_peer.py LIBRARY FILE WARM_FILE`. Imports are
not counted.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

CONTEXT_LENGTH, HORIZON = 96, 24


def darts() -> Callable[[str], Any]:
    """A list of series from groups, in float32, as a training set."""
    import numpy as np
    import pandas as pd
    from darts import TimeSeries
    from darts.utils.data import SequentialTorchTrainingDataset

    def prepare(path: str) -> Any:
        frame = pd.read_parquet(path)
        series = TimeSeries.from_group_dataframe(frame, group_cols="unique_id", time_col="ds", value_cols="y", verbose=False)
        return SequentialTorchTrainingDataset(
            [one.astype(np.float32) for one in series], input_chunk_length=CONTEXT_LENGTH, output_chunk_length=HORIZON
        )

    return prepare


def gluonts() -> Callable[[str], Any]:
    """A long data frame as a data set, gone through once, as an estimator's cache does."""
    import pandas as pd
    from gluonts.dataset.pandas import PandasDataset

    def prepare(path: str) -> Any:
        frame = pd.read_parquet(path)
        dataset = PandasDataset.from_long_dataframe(frame, item_id="unique_id", timestamp="ds", target="y", freq="h")
        return list(dataset)

    return prepare


def neuralforecast() -> Callable[[str], Any]:
    """The data set that `NeuralForecast.fit` makes of a frame."""
    import pandas as pd
    from neuralforecast.tsdataset import TimeSeriesDataset

    def prepare(path: str) -> Any:
        return TimeSeriesDataset.from_df(pd.read_parquet(path))

    return prepare


def pytorch_forecasting() -> Callable[[str], Any]:
    """`TimeSeriesDataSet` over a frame with row numbers."""
    import pandas as pd
    from pytorch_forecasting import TimeSeriesDataSet
    from pytorch_forecasting.data.encoders import TorchNormalizer

    def prepare(path: str) -> Any:
        frame = pd.read_parquet(path)
        frame["row"] = frame.groupby("unique_id", sort=False).cumcount()
        return TimeSeriesDataSet(
            frame, time_idx="row", target="y", group_ids=["unique_id"],
            min_encoder_length=CONTEXT_LENGTH, max_encoder_length=CONTEXT_LENGTH,
            min_prediction_length=HORIZON, max_prediction_length=HORIZON, time_varying_unknown_reals=["y"],
            target_normalizer=TorchNormalizer(method="identity"), add_relative_time_idx=False, add_target_scales=False,
        )  # fmt: skip

    return prepare


PEERS = {"darts": darts, "gluonts": gluonts, "neuralforecast": neuralforecast, "pytorch-forecasting": pytorch_forecasting}


def main() -> None:
    """Warm up on a small file, then measure."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    library, path, warm = sys.argv[1:]
    prepare = PEERS[library]()
    prepare(warm)
    started, used = time.perf_counter(), time.process_time()
    prepared = prepare(path)
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - used
    del prepared
    print(json.dumps({"seconds": seconds, "processor_seconds": processor_seconds}))


if __name__ == "__main__":
    main()
