"""The request of SageMaker's DeepAR, as `boto3`'s `invoke_endpoint` sends it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.errors import ProblemError
from app.protocols.exchange import Exchange, Find, invalid, pinned, validate_complete
from app.schemas.forecast import MAX_LEVELS, Covariate, ForecastRequest, NumberOrText, SeriesRequest
from app.services.answer import Answer
from app.services.forecasting import parse_json
from models.bundle import BundleManifest


class _Document(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class DeepARInstance(_Document):
    """One series."""

    start: str | int
    """Timestamp of the first value."""
    target: Annotated[list[float | Literal["NaN"] | None], Field(fail_fast=True)]
    """Observations, oldest first; null or "NaN" is missing."""
    cat: list[int] | None = None
    """Static covariates, in the order of the model's `stat_exog`."""
    dynamic_feat: Annotated[list[Covariate], Field(max_length=1000)] | None = None
    """Known-future covariates in the order of the model's `futr_exog`, each as long as `target` and the horizon."""


class DeepARConfiguration(_Document):
    """What to answer with."""

    num_samples: int | None = Field(default=None, ge=1)
    """Not read: quantiles are the model's own, not counted from samples."""
    output_types: list[Literal["mean", "quantiles", "samples"]] = ["mean", "quantiles"]
    """`mean` is the median; `samples` is refused."""
    quantiles: list[str] = Field(default=["0.1", "0.5", "0.9"], max_length=MAX_LEVELS)
    """Quantile levels, as text."""

    @field_validator("quantiles")
    @classmethod
    def _numbers(cls, levels: list[str]) -> list[str]:
        for level in levels:
            try:
                is_level = 0.0 < float(level) < 1.0
            except ValueError:
                is_level = False
            if not is_level:
                raise ValueError("must be numbers between 0 and 1, as text")
        return levels


class DeepARRequest(_Document):
    """`POST /invocations` with `instances`."""

    instances: list[DeepARInstance] = Field(min_length=1)
    configuration: DeepARConfiguration = DeepARConfiguration()


class DeepARExchange(Exchange):
    """One request of the protocol.

    Args:
        model: Reference of the model; None = the default model.
    """

    def __init__(self, model: str | None) -> None:
        self._model = model

    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """One series per instance."""
        document = parse_json(DeepARRequest, body)
        self._configuration = configuration = document.configuration
        if "samples" in configuration.output_types:
            detail = "configuration.output_types must not name samples: the model forecasts quantiles. Ask for those."
            raise ProblemError("protocol_unsupported", detail)
        found = find(self._model)
        series = [
            _series(instance, index, found.model.manifest) for index, instance in enumerate(document.instances)
        ]
        levels = list(dict.fromkeys(float(level) for level in configuration.quantiles))
        quantiles = levels if "quantiles" in configuration.output_types else []
        return ForecastRequest(model=pinned(found), quantiles=quantiles, series=series)

    def write(self, answer: Answer) -> bytes:
        """One prediction per instance."""
        validate_complete(answer)
        rows = dict(zip(answer.levels.keys, answer.values, strict=True))
        kinds = self._configuration.output_types
        predictions = []
        for place in range(answer.num_forecasts):
            prediction: dict[str, Any] = {}
            if "mean" in kinds:
                prediction["mean"] = np.ascontiguousarray(rows["mean"][place])
            if "quantiles" in kinds:
                levels = self._configuration.quantiles
                prediction["quantiles"] = {level: np.ascontiguousarray(rows[f"{float(level):g}"][place]) for level in levels}
            predictions.append(prediction)
        return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _series(instance: DeepARInstance, index: int, manifest: BundleManifest) -> SeriesRequest:
    columns = manifest.columns
    path = f"instances.{index}"
    features, categories = instance.dynamic_feat or [], instance.cat or []
    for name, given, wanted in (("dynamic_feat", features, columns.futr_exog), ("cat", categories, columns.stat_exog)):
        if len(given) != len(wanted):
            listed = f" ({', '.join(wanted)}, in this order)" if wanted else ""
            raise invalid(f"{path}.{name}", f"must hold {len(wanted)} covariates{listed}, but holds {len(given)}.")
    statics: dict[str, NumberOrText] = {
        name: str(value) if name in columns.categories else float(value)
        for name, value in zip(columns.stat_exog, categories, strict=True)
    }
    return SeriesRequest.model_construct(
        unique_id=f"instance {index}", start=instance.start,
        y=[None if isinstance(value, str) else value for value in instance.target],
        futr_exog=dict(zip(columns.futr_exog, features, strict=True)), stat_exog=statics,
    )  # fmt: skip
