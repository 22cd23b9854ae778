"""The scoring request of `mlflow models serve`: the same rows in and out as the registered pyfunc of the model."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import ProblemError
from app.protocols.exchange import Exchange, Find, invalid, pinned, validate_complete
from app.protocols.frames import series_of
from app.protocols.tables import CSV, answer_table, read_table
from app.schemas.forecast import ForecastRequest, Name
from app.services.answer import Answer
from app.services.encoding import EncodedSeries
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
        table = read_table(body, CSV, self._max_bytes) if self._is_csv else _table(parse_json(ScoringRequest, body))
        found = find(self._model)
        return ForecastRequest(model=pinned(found), series=series_of(table, found.model.manifest, self._max_series))

    def write(self, answer: Answer) -> bytes:
        """`predictions`, one object per series and step."""
        validate_complete(answer)
        series = [outcome for _, outcome, _ in answer.rows() if isinstance(outcome, EncodedSeries)]
        columns = answer_table(answer).to_pydict() | {"ds": [time for one in series for time in answer.times(one)]}
        names = list(columns)
        rows = zip(*columns.values(), strict=True)
        predictions = [dict(zip(names, row, strict=True)) for row in rows]
        return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _table(request: ScoringRequest) -> pa.Table:
    try:
        if request.dataframe_records is not None:
            records = request.dataframe_records
            names = list(dict.fromkeys(name for record in records for name in record))
            return pa.Table.from_arrays([pa.array([record.get(name) for record in records]) for name in names], names=names)
        split = request.dataframe_split
        assert split is not None
        width = len(split.columns)
        for index, row in enumerate(split.data):
            if len(row) != width:
                raise invalid(f"dataframe_split.data.{index}", f"must hold {width} values, one per column.")
        columns = [pa.array(column) for column in zip(*split.data, strict=True)]
        return pa.Table.from_arrays(columns, names=split.columns)
    except pa.ArrowException:
        raise ProblemError("table_invalid", "Every column must hold numbers or texts, not both.") from None
