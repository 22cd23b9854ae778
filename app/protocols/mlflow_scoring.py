"""The scoring request of `mlflow models serve`: the same rows in and out as the registered pyfunc of the model."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import orjson
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.protocols.exchange import Exchange, Find, invalid, pinned, validate_complete
from app.protocols.frames import series_of
from app.protocols.tables import CSV, answer_table, read_table
from app.schemas.forecast import ForecastRequest, Name
from app.services.answer import Answer
from app.services.forecasting import parse_json

Cell = Annotated[float | str | None, Field(union_mode="left_to_right")]


class SplitFrame(BaseModel):
    """Columns and rows."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    columns: Annotated[list[Name], Field(min_length=1, max_length=1000)]
    data: Annotated[list[list[Cell]], Field(min_length=1, fail_fast=True)]


class ScoringRequest(BaseModel):
    """`POST /invocations` with a frame."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    dataframe_split: SplitFrame | None = None
    """`columns` and `data`, as `frame.to_dict(orient="split")` makes them."""
    dataframe_records: Annotated[list[dict[Name, Cell]], Field(min_length=1, fail_fast=True)] | None = None
    """One object per row."""
    params: dict[str, Any] | None = None
    """Must be empty: the model takes none."""

    @model_validator(mode="after")
    def _one_frame(self) -> ScoringRequest:
        if (self.dataframe_split is None) == (self.dataframe_records is None):
            raise ValueError("one of dataframe_split and dataframe_records must be given")
        if self.params:
            raise ValueError("params must be left out: the model takes none")
        return self


class ScoringExchange(Exchange):
    """One request of the protocol.

    Args:
        model: Reference of the model; None = the default model.
        is_csv: Whether the body is CSV.
        max_bytes: Most that the body may unpack to.
        max_series: Most series.
    """

    def __init__(self, model: str | None, is_csv: bool, max_bytes: int, max_series: int) -> None:
        self._model, self._is_csv = model, is_csv
        self._max_bytes, self._max_series = max_bytes, max_series

    def read(self, body: bytes, find: Find) -> ForecastRequest:
        """One series per `unique_id`."""
        frame = read_table(body, CSV, self._max_bytes) if self._is_csv else _frame(parse_json(ScoringRequest, body))
        found = find(self._model)
        return ForecastRequest(model=pinned(found), series=series_of(frame, found.model.manifest, self._max_series))

    def write(self, answer: Answer) -> bytes:
        """`predictions`, one object per series and step."""
        validate_complete(answer)
        columns = answer_table(answer).to_pydict()
        times = [time for _, outcome, _ in answer.rows() for time in answer.times(outcome)]  # type: ignore[arg-type]  complete
        names = list(columns)
        rows = zip(*(columns[name] if name != "ds" else times for name in names), strict=True)
        predictions = [dict(zip(names, row, strict=True)) for row in rows]
        return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _frame(request: ScoringRequest) -> pd.DataFrame:
    if request.dataframe_split is not None:
        split = request.dataframe_split
        width = len(split.columns)
        for index, row in enumerate(split.data):
            if len(row) != width:
                raise invalid(f"dataframe_split.data.{index}", f"must hold {width} values, one per column.")
        frame = pd.DataFrame(split.data, columns=split.columns)
    else:
        frame = pd.DataFrame(request.dataframe_records)
    if "ds" in frame and np.issubdtype(frame["ds"].dtype, np.floating) and not frame["ds"].isna().any():
        frame["ds"] = frame["ds"].astype(np.int64)  # JSON does not tell 1 from 1.0
    return frame
