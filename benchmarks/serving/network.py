"""The served network, and every form in which the servers want it.

One LSTM layer of 64 units over 96 steps, a linear head for 24: the peers serve exactly this; gradcast serves its own forecaster
of the same size, which also scales every window, masks what is missing and answers quantiles that cannot cross.

usage: benchmarks/serving/network.py DIRECTORY      writes weights, requests, a bundle and an MLflow model
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

CONTEXT_LENGTH, HORIZON, HIDDEN_SIZE = 96, 24, 64
WEIGHTS = "weights.safetensors"
SIZES = (1, 100)


class BareLSTM(nn.Module):
    """The smallest network that does the job."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, HIDDEN_SIZE, batch_first=True)
        self.head = nn.Linear(HIDDEN_SIZE, HORIZON)

    def forward(self, context: Tensor) -> Tensor:
        """Forecast (B, 24) from (B, 96)."""
        outputs, _ = self.lstm(context[..., None])
        forecast: Tensor = self.head(outputs[:, -1])
        return forecast


def load_network(directory: Path) -> BareLSTM:
    """The network with the weights that `write_all` left."""
    network = BareLSTM()
    network.load_state_dict(safetensors.torch.load_file(directory / WEIGHTS))
    return network.eval()


def write_all(directory: Path) -> None:
    """Write weights, one request per server and size, the bundle and the MLflow model."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    safetensors.torch.save_file(BareLSTM().state_dict(), directory / WEIGHTS)
    for size in SIZES:
        write_requests(directory, size)
    write_bundle(directory / "bundle")
    _write_mlflow_model(directory)


def write_requests(directory: Path, size: int) -> None:
    """Write a request of `size` series for every kind of server."""
    generator = np.random.default_rng(0)
    steps = np.arange(CONTEXT_LENGTH)
    level, phase = generator.uniform(5, 50, (size, 1)), generator.uniform(0, 6, (size, 1))
    values = level + np.sin(steps * 2 * np.pi / 24 + phase) + 0.1 * generator.standard_normal((size, CONTEXT_LENGTH))
    rows = np.round(values, 4).tolist()
    series = [
        {"unique_id": f"s{index}", "start": "2026-01-01T00:00:00", "y": row} for index, row in enumerate(rows)
    ]  # fmt: skip
    bodies = {
        "peers": {"series": rows},
        "mlflow": {"inputs": rows},
        # The peers answer one number per step.
        "gradcast": {"quantiles": [], "series": series},
    }
    for name, body in bodies.items():
        (directory / f"{name}-{size}.json").write_text(json.dumps(body, separators=(",", ":")))


def write_bundle(directory: Path) -> None:
    """Write a bundle of a network of that size; every call draws other weights."""
    from models.bundle import BundleManifest, save_bundle
    from models.config import LSTMConfig
    from models.registry import build_forecaster

    config = LSTMConfig(context_length=CONTEXT_LENGTH, horizon=HORIZON, hidden_size=HIDDEN_SIZE)
    manifest = BundleManifest(network=config, freq="h", season_length=24, trained_until="2025-12-31T23:00:00")
    save_bundle(directory, build_forecaster(config), manifest)


def _write_mlflow_model(directory: Path) -> None:
    import mlflow

    target = directory / "mlflow_model"
    if not target.exists():
        mlflow.pyfunc.save_model(
            target,
            python_model=str(Path(__file__).with_name("mlflow_model.py")),
            artifacts={"weights": str(directory / WEIGHTS)},
            code_paths=[__file__],
            input_example=np.zeros((1, CONTEXT_LENGTH), np.float32),
            pip_requirements=["torch"],
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    write_all(Path(sys.argv[1]))
