"""LitServe with its own batching.

usage: MODEL_DIRECTORY=... python server_litserve.py PORT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import litserve
import torch
from network import load_network


class BareAPI(litserve.LitAPI):
    """Decode, batch, predict, encode."""

    def setup(self, device: str) -> None:
        """Read the weights."""
        torch.set_num_threads(1)
        self.network = load_network(Path(os.environ["MODEL_DIRECTORY"]))

    def decode_request(self, request):  # noqa: ANN001, ANN201  LitServe would take an annotation for a query parameter
        """Lists to a tensor."""
        return torch.tensor(request["series"])

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Requests to one batch."""
        self.sizes = [len(tensor) for tensor in inputs]
        return torch.cat(inputs)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Forecast."""
        with torch.inference_mode():
            forecast: torch.Tensor = self.network(x)
        return forecast

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        """One batch to answers."""
        return list(output.split(self.sizes))

    def encode_response(self, output):  # noqa: ANN001, ANN201  the same
        """A tensor to lists."""
        return {"forecast": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(BareAPI(max_batch_size=64, batch_timeout=0.002), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
