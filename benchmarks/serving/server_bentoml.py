"""BentoML with its adaptive batching.

usage: MODEL_DIRECTORY=... bentoml serve server_bentoml:BareService --port PORT
"""

import os
from pathlib import Path

import bentoml
import numpy as np
import torch
from network import load_network


@bentoml.service(workers=1, traffic={"timeout": 30})
class BareService:
    """One worker."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.network = load_network(Path(os.environ["MODEL_DIRECTORY"]))

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, series: np.ndarray) -> np.ndarray:
        """Forecast."""
        with torch.inference_mode():
            return self.network(torch.as_tensor(series, dtype=torch.float32)).numpy()
