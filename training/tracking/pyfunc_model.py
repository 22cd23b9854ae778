"""The registered model for people without this project: an MLflow pyfunc from code around the bundle.

MLflow copies this file beside the bundle and runs it where the model is loaded; no object is ever pickled. The service
of this project does not use it: it reads the bundle itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

MAX_EXAMPLE_ROWS = 2000


class GradcastForecaster(PythonModel):
    """Forecasts every series of a long frame."""

    def load_context(self, context: Any) -> None:
        """Load and verify the bundle."""
        # Imported here: MLflow puts the model's own copy of the code on the path only before this call.
        from models.bundle import load_bundle

        self.bundle = load_bundle(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Forecast the horizon after the last observed `y` of each series.

        Args:
            context: MLflow's; unused.
            model_input: Columns `ds`, `y`, optionally `unique_id`, and the covariates; missing values are null. Rows
                after the last `y` carry the known future of the covariates.
            params: Unused.

        Returns:
            One row per series and step: `unique_id`, `ds`, `mean` and one column per quantile level.
        """
        from training.forecasting import forecast_frame

        frame = model_input.copy()
        if "unique_id" not in frame.columns:
            frame.insert(0, "unique_id", "series")
        frame["unique_id"] = frame["unique_id"].fillna("series").astype(str)
        return forecast_frame(self.bundle, frame)


def build_signature(manifest: Mapping[str, Any]) -> ModelSignature:
    """The request schema of a bundle: numbers may be null, covariates may be absent.

    Args:
        manifest: Content of `bundle.json`.
    """
    columns: Mapping[str, Any] = manifest.get("columns", {})
    categories = columns.get("categories", {})
    time = DataType.long if manifest.get("time_kind") == "integer" else _timestamp_type(manifest)
    request: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "unique_id", required=False),
        ColSpec(time, "ds"),
        ColSpec(DataType.double, "y", required=False),
    ]
    for role in ("futr_exog", "hist_exog", "stat_exog"):
        types = {name: DataType.string if name in categories else DataType.double for name in columns.get(role, ())}
        request += [ColSpec(kind, name, required=False) for name, kind in types.items()]
    network: Mapping[str, Any] = manifest.get("network", {})
    levels = (0.5,) if network.get("head") == "point" else network.get("quantile_levels", ())
    answer: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "unique_id"), ColSpec(time, "ds")]
    answer += [ColSpec(DataType.double, name) for name in ("mean", *(f"{level:g}" for level in levels))]
    return ModelSignature(inputs=Schema(request), outputs=Schema(answer))


def _timestamp_type(manifest: Mapping[str, Any]) -> DataType:
    # MLflow's datetime has no zone: it would strip the offset from a zoned timestamp.
    return DataType.string if manifest.get("timezone") else DataType.datetime


def read_input_example(bundle: Path, manifest: Mapping[str, Any]) -> pd.DataFrame | None:
    """A request that works: the stored context of the first series, and rows that carry its covariates into the future.

    Args:
        bundle: The bundle's directory.
        manifest: Content of its `bundle.json`.

    Returns:
        None if the bundle keeps no context, or too long a one for an example.
    """
    path = bundle / "context.parquet"
    if not path.is_file():
        return None
    stored = pd.read_parquet(path)
    stored["unique_id"] = stored["unique_id"].astype(str)
    known = stored[stored["unique_id"] == stored["unique_id"].iloc[0]] if len(stored) else stored
    if not 0 < len(known) <= MAX_EXAMPLE_ROWS:
        return None
    columns: Mapping[str, Any] = manifest.get("columns", {})
    example = pd.concat([known, _future_rows(known, manifest)], ignore_index=True) if columns.get("futr_exog") else known
    numbers = example.columns[example.dtypes == "float32"]
    example = example.astype(dict.fromkeys(numbers, "float64")).reset_index(drop=True)
    if manifest.get("timezone"):
        example["ds"] = [timestamp.isoformat() for timestamp in pd.DatetimeIndex(example["ds"])]
    return example


def _future_rows(known: pd.DataFrame, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of the horizon with the last covariates repeated; `y` and what is known for the past only are missing."""
    horizon, freq, last = int(manifest["network"]["horizon"]), str(manifest["freq"]), known["ds"].iloc[-1]
    future = known.iloc[[-1] * horizon].reset_index(drop=True)
    if manifest.get("time_kind") == "integer":
        future["ds"] = [last + int(freq) * (step + 1) for step in range(horizon)]
    else:
        future["ds"] = pd.date_range(last, periods=horizon + 1, freq=freq)[1:].astype(known["ds"].dtype)
    future["y"] = float("nan")
    for name in manifest["columns"].get("hist_exog", ()):
        future[name] = None
    return future


set_model(GradcastForecaster())
