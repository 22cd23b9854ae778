"""Covariates: roles, categories, gaps, and the future."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.columns import Columns
from training.config import DataConfig
from training.data.panel import Panel, build_panel
from training.errors import DataError


def build(columns: Columns | None = None, horizon: int = 0, config: dict[str, Any] | None = None, **data: Any) -> Panel:
    length = max(len(value) for value in data.values() if not isinstance(value, str))
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(length), **data})
    return build_panel(frame, DataConfig(**(config or {})), columns, horizon)


def test_channels_are_known_future_then_past_only() -> None:
    """Channels follow the configured order, text expanded in alphabetical order of its categories."""
    panel = build(
        y=np.arange(4.0),
        t=[1.5, 2, 3, 4],
        w=["rain", "clear", "snow", "snow"],
        p=[True, False, True, True],
        config={"futr_exog": ("w", "p"), "hist_exog": ("t",), "val_size": 1},
    )
    assert panel.columns.past_features == ("w=clear", "w=rain", "w=snow", "p", "t")
    assert panel.num_future_channels == 4
    assert panel.covariates.tolist() == [[0, 1, 0, 1, 1.5], [1, 0, 0, 0, 2], [0, 0, 1, 1, 3], [0, 0, 1, 1, 4]]


def test_numbers_are_carried_forward_then_take_the_training_mean() -> None:
    """A missing number repeats the value before; before the first one stands the mean of the training rows."""
    panel = build(
        y=np.arange(6.0), x=[np.nan, 2.0, np.nan, 4.0, np.nan, 600.0], config={"hist_exog": ("x",), "val_size": 1}
    )
    assert panel.covariates[:, 0].tolist() == [
        3,
        2,
        2,
        4,
        4,
        600,
    ]  # (2 + 2 + 4 + 4) / 4: the last row is no training row
    assert panel.covariate_fill.tolist() == [3]


def test_carrying_forward_stops_at_the_series() -> None:
    """The last value of one series never fills the start of the next."""
    frame = pd.DataFrame(
        {
            "unique_id": list("aaabbb"),
            "ds": [0, 1, 2] * 2,
            "y": 1.0,
            "x": [9, 9, 9, np.nan, 1, 1],
            "w": ["u", "v", "u", None, "u", "u"],
        }
    )
    panel = build_panel(frame, DataConfig(hist_exog=("x", "w"), val_size=1))
    assert panel.covariates[3, 0] == panel.covariate_fill[0] != 9
    assert panel.covariates[3, 1:].tolist() == [0, 0]


def test_categories_come_from_training_rows() -> None:
    """A category that only later rows show has no channel: it would be a weight that nothing ever trained."""
    panel = build(y=np.arange(6.0), w=["u", "v", "u", "v", "u", "new"], config={"hist_exog": ("w",), "val_size": 2})
    assert panel.columns.categories == {"w": ("u", "v")}
    assert panel.covariates[5].tolist() == [0, 0]
    assert any("unseen" in note for note in panel.notes)


def test_serving_uses_the_trained_vocabulary() -> None:
    """With trained columns the channels are the trained ones: an unseen category is zeros, a missing one repeats."""
    columns = Columns(hist_exog=("w",), categories={"w": ("1", "2")})
    panel = build(columns, y=np.arange(4.0), w=[2, 7, None, 1], config={"freq": "1"})
    assert panel.covariates.tolist() == [[0, 1], [0, 0], [0, 0], [1, 0]]
    panel = build(columns, y=np.arange(4.0), w=["2", None, "1", "2"], config={"freq": "1"})
    assert panel.covariates.tolist() == [[0, 1], [0, 1], [1, 0], [0, 1]]


def test_serving_uses_the_trained_mean() -> None:
    """A covariate not seen yet takes the value that training says."""
    frame = pd.DataFrame({"unique_id": "a", "ds": [0, 1], "y": 1.0, "x": [np.nan, 5.0]})
    fill = np.array([42.0], np.float32)
    panel = build_panel(frame, DataConfig(freq="1"), Columns(hist_exog=("x",)), covariate_fill=fill)
    assert panel.covariates[:, 0].tolist() == [42, 5]


def test_too_many_categories_are_refused() -> None:
    """More than 64 categories are no categories; a column of numbers with a stray text is named as such."""
    names = [f"n{i}" for i in range(80)] * 2
    with pytest.raises(DataError, match="80 different texts") as caught:
        build(y=np.arange(160.0), w=names, config={"hist_exog": ("w",), "val_size": 1})
    assert caught.value.problems[0].code == "covariate_categories"
    numbers = [str(i) for i in range(150)] + ["ND"] * 10
    with pytest.raises(DataError, match="'ND'"):
        build(y=np.arange(160.0), w=numbers, config={"hist_exog": ("w",), "val_size": 1})


def test_text_in_a_column_of_numbers_is_refused_when_serving() -> None:
    """A model that reads a number refuses a text, with the row."""
    with pytest.raises(DataError, match="row 2") as caught:
        build(Columns(hist_exog=("x",)), y=np.arange(3.0), x=[1.0, "much", 2.0], config={"freq": "1"})
    assert caught.value.problems[0].code == "covariate_not_numeric"


def test_static_columns_are_one_row_per_series() -> None:
    """Numbers and text that are constant over a series; a missing number is the mean of the others."""
    frame = pd.DataFrame(
        {
            "unique_id": list("aabbcc"),
            "ds": [0, 1] * 3,
            "y": 1.0,
            "size": [2.0, np.nan, 4.0, 4.0, np.nan, np.nan],
            "kind": ["x", "x", None, "z", "x", "x"],
        }
    )
    panel = build_panel(frame, DataConfig(stat_exog=("size", "kind")))
    assert panel.columns.static_features == ("size", "kind=x", "kind=z")
    assert panel.static.tolist() == [[2, 1, 0], [4, 0, 1], [3, 1, 0]]


def test_static_column_that_changes_is_refused() -> None:
    """A static column with two values in one series is named with series and row."""
    frame = pd.DataFrame({"unique_id": list("aabb"), "ds": [0, 1] * 2, "y": 1.0, "size": [1, 1, 1, 2]})
    with pytest.raises(DataError, match="series 'b', row 4"):
        build_panel(frame, DataConfig(stat_exog=("size",)))


def test_rows_after_the_last_value_are_the_known_future() -> None:
    """Rows with covariates and without y after the end are kept as the future, counted while complete."""
    panel = build(y=[1.0, 2.0, np.nan, np.nan, np.nan], x=[1.0, 2.0, 3.0, np.nan, 5.0], config={"futr_exog": ("x",)})
    assert panel.values.tolist() == [1, 2]
    assert panel.future_extra[0, :, 0].tolist() == [3, 3, 5]
    assert panel.num_future.tolist() == [1]
    assert panel.series_without_future(1) == ()
    assert panel.series_without_future(2) == ("a",)


def test_without_known_future_columns_nothing_is_lacking() -> None:
    """Calendar features need no rows."""
    assert build(y=[1.0, 2.0]).series_without_future(5) == ()


def test_absent_covariates_are_refused_with_what_is_there() -> None:
    """A role for a column that the data lacks is refused, with the columns that it has."""
    with pytest.raises(DataError, match="it has 'rain'"):
        build(y=[1.0, 2.0], rain=[0, 1], config={"futr_exog": ("rian",)})
