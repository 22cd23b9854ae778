"""The bare network as MLflow's models-from-code pyfunc; `mlflow models serve` answers with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class BarePyfunc(PythonModel):
    """An array (B, 96) in, an array (B, 24) out."""

    def load_context(self, context: Any) -> None:
        """Read the weights."""
        from network import load_network

        self.network = load_network(Path(context.artifacts["weights"]).parent)

    @torch.inference_mode()
    def predict(self, context, model_input, params=None):  # noqa: ANN001, ANN201  MLflow takes annotations for a schema
        """Forecast."""
        return self.network(torch.from_numpy(np.asarray(model_input, np.float32))).numpy()


set_model(BarePyfunc())
