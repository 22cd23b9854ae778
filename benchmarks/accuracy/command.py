"""The command line, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd


def gradcast(*arguments: str) -> Any:
    """Run the command; its one JSON document."""
    command = [sys.executable, "-m", "training", *arguments, "--json", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr[-2000:])
    return json.loads(result.stdout)


def numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Number the rows of every series from 1 in order of time, as `h`."""
    ordered = frame.sort_values(["unique_id", "ds"], kind="stable")
    return ordered.assign(h=ordered.groupby("unique_id", sort=False).cumcount() + 1)


def train_and_forecast(
    train: Path, horizon: int, seed: int, settings: list[str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train on a file and forecast the steps after its end.

    Returns:
        Median forecasts `unique_id, h, yhat` and what `train` printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"model.horizon={horizon}", "tracking.register=false", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        document = gradcast(
            "train", "--data", str(train), "--out", f"{folder}/run", "--seed", str(seed),
            *(part for setting in [*fixed, *settings] for part in ("--set", setting)),
        )  # fmt: skip
        rows = pd.DataFrame(gradcast("forecast", "--bundle", f"{folder}/run/bundle", "--data", str(train)))
    frame = numbered(rows.astype({"unique_id": str, "ds": "datetime64[ns]"}))
    return frame.rename(columns={"0.5" if "0.5" in frame else "mean": "yhat"})[["unique_id", "h", "yhat"]], document
