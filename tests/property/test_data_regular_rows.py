"""The panel of rows that lie on a grid already, against the one that looks at every row: equal to the bit, or refused alike."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from training.config import DataConfig
from training.data import mapping, runs
from training.data.panel import Panel, build_panel, load_panel
from training.data.runs import RunColumn
from training.errors import DataError

quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

STARTS = ("2024-01-01 00:00", "2024-03-30 22:00", "2023-12-31 23:30", "1650-05-05 00:00")
STEPS = ("30min", "h", "23h", "D", "7D", "28D", "MS")
ZONES = (None, "UTC", "Europe/Berlin", "+05:30", "America/New_York")


def times(case: dict[str, Any], number: int) -> Any:
    """Times of one series: each begins where its number says, so that some meet the one before them."""
    length = case["lengths"][number]
    if case["clock"] == "integer":
        return np.arange(length) * case["count_step"] + case["first_count"] + number
    first = pd.Timestamp(case["start"]) + pd.Timedelta(days=number % 2)
    if case["step"] == "MS":
        return pd.date_range(first.normalize().replace(day=1), periods=length, freq="MS", unit="us")
    return pd.date_range(first, periods=length, freq=case["step"], unit="us")


def blanked(frame: pd.DataFrame, row: int, column: str, value: Any = None) -> pd.DataFrame:
    if column == "y":
        frame = frame.astype({"y": "float64"})
    elif pd.api.types.is_integer_dtype(frame[column].dtype):
        frame = frame.astype({column: "Int64"})
    frame.loc[row, column] = value
    return frame


def shifted(frame: pd.DataFrame, row: int) -> pd.DataFrame:
    """Everything after a row of a series is some time later: on the grid of some steps, off that of others."""
    series, times = frame["unique_id"].to_numpy(), frame["ds"]
    later = (series == series[row]) & (np.arange(len(frame)) >= row)
    if pd.api.types.is_datetime64_any_dtype(times.dtype):
        return frame.assign(ds=times.where(~later, times + pd.Timedelta(hours=3 + 21 * (row % 3))))
    return frame.assign(ds=times.where(~later, times + 3 + row % 4))


def reordered(frame: pd.DataFrame, rows: Any) -> pd.DataFrame:
    return frame.iloc[rows].reset_index(drop=True)


DAMAGES: dict[str, Callable[[pd.DataFrame, int], pd.DataFrame]] = {
    "no value": lambda frame, row: blanked(frame, row, "y", np.nan),
    "huge": lambda frame, row: blanked(frame, row, "y", 1e39),
    "no time": lambda frame, row: blanked(frame, row, "ds"),
    "no name": lambda frame, row: blanked(frame, row, "unique_id"),
    "gap": lambda frame, row: reordered(frame, np.delete(np.arange(len(frame)), row) if len(frame) > 1 else [0]),
    "late": shifted,
    "twice": lambda frame, row: reordered(frame, np.insert(np.arange(len(frame)), row, row)),
    "swap": lambda frame, row: reordered(frame, np.roll(np.arange(len(frame)), -1)),
    "shuffle": lambda frame, row: reordered(frame, np.random.default_rng(row).permutation(len(frame))),
}


def write(case: dict[str, Any], path: Path) -> None:
    """A parquet file of series, then broken as the case says."""
    random = np.random.default_rng(case["seed"])
    parts = [
        pd.DataFrame({"unique_id": number, "ds": times(case, number), "y": random.integers(-9, 9, length)})
        for number, length in enumerate(case["lengths"])
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["y"] = frame["y"].astype(case["values"])
    for damage in case["damages"]:
        frame = DAMAGES[damage](frame, int(random.integers(len(frame))))
    if case["names"] != "int64":
        named = frame["unique_id"].map(lambda name: None if pd.isna(name) else f"s{name}").astype(case["names"])
        frame["unique_id"] = named
    if case["clock"] != "integer" and case["zone"] is not None:
        frame["ds"] = frame["ds"].dt.tz_localize("UTC").dt.tz_convert(case["zone"])
    if case["is_single"]:
        frame = frame[frame["unique_id"].isna() | (frame["unique_id"] == frame["unique_id"].iloc[0])].drop(
            columns="unique_id"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, about what pyarrow asks of it
        table = pa.Table.from_pandas(frame, preserve_index=False)
    if case["clock"] != "integer":
        position = table.schema.get_field_index("ds")
        kind = pa.timestamp(case["clock"], table.schema.field("ds").type.tz)
        if case["clock"] != "ns" or pd.Timestamp(case["start"]).year > 1700:
            table = table.set_column(position, "ds", table.column("ds").cast(kind))
    pq.write_table(table, path, row_group_size=case["group_rows"], version="2.6")


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "lengths": st.lists(st.sampled_from((1, 2, 3, 40, 90)), min_size=1, max_size=6),
        "clock": st.sampled_from(("us", "us", "ms", "ns", "integer")),
        "start": st.sampled_from(STARTS),
        "step": st.sampled_from(STEPS),
        "first_count": st.sampled_from((0, -50, 1990, 20240101, 1_700_000_000)),
        "count_step": st.sampled_from((1, 3, -1)),
        "zone": st.sampled_from(ZONES),
        "names": st.sampled_from(("str", "str", "category", "int64")),
        "values": st.sampled_from(("float64", "float32", "int64", "int32", "bool")),
        "damages": st.lists(st.sampled_from(("gap", "gap", "late", *DAMAGES)), max_size=5),
        "is_single": st.booleans(),
        "group_rows": st.sampled_from((7, 64, 10_000)),
        "fill": st.sampled_from(("mask", "ffill", "linear", "zero", "error")),
        "freq": st.sampled_from((None, None, None, "h", "D", "W-MON", "3", "nonsense")),
        "calendar": st.sampled_from(("auto", "none", ("hour_of_day",))),
    }
)

regular = {
    "seed": 1, "lengths": [40, 90, 40], "clock": "us", "start": STARTS[0], "step": "h", "first_count": 0, "count_step": 1,
    "zone": None, "names": "str", "values": "float64", "damages": [], "is_single": False, "group_rows": 64, "fill": "mask",
    "freq": None, "calendar": "auto",
}  # fmt: skip


def outcome(build: Any) -> Panel | list[tuple[str, str, str, str]]:
    try:
        return build()
    except DataError as error:
        return [(problem.code, problem.where, problem.message, problem.remedy) for problem in error.problems]


@quick
@given(cases)
@example(regular)
@example(regular | {"damages": ["swap"]})
@example(regular | {"damages": ["twice"]})
@example(regular | {"damages": ["shuffle"]})
@example(regular | {"damages": ["no time"]})
@example(regular | {"damages": ["no time"], "clock": "integer"})
@example(regular | {"damages": ["no name"]})
@example(regular | {"damages": ["huge"]})
@example(regular | {"damages": ["late"], "step": "23h"})
@example(regular | {"damages": ["late"], "clock": "integer", "count_step": 3})
@example(regular | {"damages": ["no value", "gap"], "lengths": [2, 2, 40]})
@example(regular | {"damages": ["no value"], "fill": "linear"})
@example(regular | {"zone": "Europe/Berlin", "start": STARTS[1]})
@example(regular | {"zone": "Europe/Berlin", "start": STARTS[1], "step": "23h", "lengths": [2, 2]})
@example(regular | {"clock": "integer", "first_count": 1990, "lengths": [90]})
@example(regular | {"step": "7D", "freq": "W-MON"})
@example(regular | {"step": "7D", "damages": ["gap"]})
@example(regular | {"damages": ["gap"] * 5, "lengths": [3, 3, 3, 3]})
@example(regular | {"damages": ["gap", "gap", "no value", "late", "gap"], "fill": "linear", "zone": "Europe/Berlin"})
@example(regular | {"damages": ["gap"] * 5, "step": "D", "values": "int64"})
def test_a_panel_from_runs_is_the_panel_from_rows(case: dict[str, Any]) -> None:
    """Every array, choice and note; and where one refuses, the other refuses with the same words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        write(case, path)
        config = DataConfig(path=str(path), fill=case["fill"], freq=case["freq"], calendar=case["calendar"])
        table = mapping.open_table(path, config)
        expected = outcome(lambda: build_panel(table.read(table.pieces(0, int(table.ends[-1]))), config, horizon=3))
        actual = outcome(lambda: load_panel(config, horizon=3))
    if not isinstance(expected, Panel) or not isinstance(actual, Panel):
        assert actual == expected
        return
    for name, value in vars(expected).items():
        found = getattr(actual, name)
        if isinstance(value, np.ndarray):
            assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes()), name
        else:
            assert found == value, name


@pytest.mark.parametrize(
    ("change", "is_regular"),
    [
        ({}, True),
        ({"damages": ["no value"]}, True),
        ({"zone": "Europe/Berlin"}, True),
        ({"clock": "integer"}, True),
        ({"values": "int64", "names": "int64"}, True),
        ({"is_single": True}, True),
        ({"zone": "Europe/Berlin", "step": "D"}, False),
        ({"damages": ["gap", "gap", "late", "no value"]}, True),
        ({"damages": ["gap", "gap"], "zone": "Europe/Berlin"}, True),
        ({"damages": ["gap", "gap", "late"], "clock": "integer", "count_step": 3}, False),
        ({"damages": ["gap"], "step": "D"}, True),
        ({"damages": ["gap"], "step": "7D"}, False),
        ({"damages": ["gap"] * 5, "lengths": [3, 3, 3, 3]}, False),
        ({"damages": ["swap"]}, False),
        ({"step": "MS"}, False),
    ],
)
def test_what_lies_on_a_grid_needs_no_frame(
    change: dict[str, Any], is_regular: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The property above compares two ways; this says that both are really taken."""
    write(regular | change, tmp_path / "rows.parquet")
    frames: list[int] = []
    monkeypatch.setattr(
        mapping, "build_panel", lambda *rest, **named: (frames.append(1), build_panel(*rest, **named))[1]
    )
    with contextlib.suppress(DataError):  # of the general way, about rows off the grid
        load_panel(DataConfig(path=str(tmp_path / "rows.parquet")), horizon=3)
    assert bool(frames) is not is_regular


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 60)), min_size=1, max_size=60),
    st.sampled_from((None, 0)),
    st.integers(1, 40),
    st.sampled_from((1, 2**61 + 1)),
)
def test_runs_are_the_numbers_they_came_from(
    pieces: list[tuple[int, int]], step: int | None, batch_rows: int, unit: int
) -> None:
    """Whatever the numbers, even beyond the last one, the batches, and whether it stayed runs, in blocks or in one."""
    numbers = unit * np.cumsum(np.repeat([change for change, _ in pieces], [count for _, count in pieces]))
    numbers[:: len(pieces) + 7] = np.iinfo(np.int64).min
    column = RunColumn(len(numbers), np.int64, step)
    for start in range(0, len(numbers), batch_rows):
        column.add(start, numbers[start : start + batch_rows])
    np.testing.assert_array_equal(column.numbers(), numbers)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runs, "_BLOCK_ROWS", 16)
        np.testing.assert_array_equal(column.numbers(), numbers)
    chosen = np.arange(0, len(numbers), 3)
    np.testing.assert_array_equal(column.at(chosen), numbers[chosen])
