"""What a tutorial would write: pydantic lists, a synchronous route, the forward pass in it.

usage: MODEL_DIRECTORY=... uvicorn server_fastapi:app
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from fastapi import FastAPI
from network import load_network
from pydantic import BaseModel

app = FastAPI()
network = load_network(Path(os.environ["MODEL_DIRECTORY"]))


class Request(BaseModel):
    """Series of 96 values."""

    series: list[list[float]]


class Answer(BaseModel):
    """Forecasts of 24 values."""

    forecast: list[list[float]]


@app.get("/")
def alive() -> dict[str, bool]:
    """Answer."""
    return {"alive": True}


@app.post("/predict", response_model=Answer)
def predict(request: Request) -> dict[str, list[list[float]]]:
    """Forecast."""
    with torch.no_grad():
        return {"forecast": network(torch.tensor(request.series)).tolist()}
