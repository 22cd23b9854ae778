"""The one border where a file becomes a frame: `unique_id`, `ds`, `y` and the covariates, whatever it calls them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import pandas as pd

from training.config import DataConfig
from training.data.dialect import MISSING_TEXTS, Dialect, detect_container, open_table, read_dialect, unreadable
from training.data.layout import Layout, count_distinct, guess_layout, inspect_columns, resolve_layout
from training.data.parquet import read_parquet_columns, read_parquet_sample
from training.data.rows import ATTRS_KEY
from training.data.timestamps import as_times, parse_timestamps
from training.data.tsf import read_tsf
from training.errors import MAX_SHOWN, DataError, Problem

# Takes the first field of a row beyond the header's last column.
_OVERFLOW = "overflow"


def read_frame(path: Path, config: DataConfig) -> pd.DataFrame:
    """Read a data file of any known kind.

    Args:
        path: CSV, CSV.gz, parquet or Monash .tsf; the content decides, not the name.
        config: Layout, columns and roles.

    Returns:
        `unique_id` (categorical text), `ds` (datetime64[us], with zone where the file has offsets; or int64), `y` and
        the configured covariates. `attrs["gradcast"]` holds notes and where rows are in the file.

    Raises:
        DataError: If the file or a column is absent, foreign or unreadable.
    """
    path = Path(path)
    container = detect_container(path)
    if config.format == "tsf" and container != "tsf":
        raise unreadable(path, f"a {container} file", "Set data.format: auto.")
    if container == "tsf":
        return _with_roles(read_tsf(path), config)
    return _read_parquet(path, config) if container == "parquet" else _read_text(path, config)


def _with_roles(frame: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    names = (*config.futr_exog, *config.hist_exog, *config.stat_exog)
    return frame[["unique_id", "ds", "y", *(name for name in names if name in frame.columns)]]


# ------------------------------------------------------------------------------------------------------------- text
def _read_text(path: Path, config: DataConfig) -> pd.DataFrame:
    dialect = read_dialect(path)
    sample = sample_frame(dialect)
    facts = inspect_columns(dialect.header, sample)
    layout = resolve_layout(facts, config, guess_layout(facts, count_distinct(facts, sample), len(dialect.sample)))
    raw = read_text_columns(path, dialect, layout, config)
    notes = [*dialect.notes]
    blank = _blank_rows(raw, layout)
    if blank.any() and not blank[: -int(blank.sum())].any():
        # Only at the end: a blank row inside keeps its place, so that lines stay lines, and is refused by its line.
        notes.append(f"{int(blank.sum())} row(s) at the end, without time and values, were left out")
        raw = raw[~blank]
    if not len(raw):
        raise unreadable(path, "without a row that has a time", "Bring rows.", "data_empty")
    id_hint = _id_hint(facts.texts, layout)
    frame = (
        _wide_frame(raw, layout, dialect.header_line + 1)
        if layout.kind == "wide"
        else _long_frame(raw, layout, path, config)
    )
    frame, time_notes = _with_times(frame, layout)
    if layout.kind == "wide":
        notes.append(f"read as wide: {len(layout.series_cols)} series, one per column")
    frame.attrs[ATTRS_KEY] = {
        "source": path.name,
        "first_line": dialect.header_line + 1,
        "rows_per_series": len(raw) if layout.kind == "wide" else None,
        "notes": [*notes, *time_notes],
        "id_hint": id_hint,
    }
    return frame


def sample_frame(dialect: Dialect) -> dict[str, pd.Series]:
    """The first rows of a text file, by column, as text."""
    columns: dict[str, pd.Series] = {}
    for position, name in enumerate(dialect.header):
        if name and name not in columns:
            values = [row[position] if position < len(row) else "" for row in dialect.sample]
            columns[name] = pd.Series(values, dtype="str")
    return columns


def read_text_columns(path: Path, dialect: Dialect, layout: Layout, config: DataConfig) -> pd.DataFrame:
    """Read the columns that a layout needs: names and times as text, the rest as pandas finds it.

    Raises:
        DataError: If the file is not a table.
    """
    needed = needed_columns(layout, config)
    # Columns go by their position, so that names that are empty, quoted or there twice do no harm.
    position = {name: str(dialect.header.index(name)) for name in needed}
    texts = [position[name] for name in (layout.id_col, *layout.time_cols) if name is not None]
    wanted = [*position.values(), _OVERFLOW]
    options: dict[str, Any] = {
        "sep": dialect.delimiter,
        "decimal": dialect.decimal,
        "usecols": wanted,
        "index_col": False,
        "dtype": dict.fromkeys([*texts, _OVERFLOW], "str"),
        "keep_default_na": False,
        "na_values": {name: [""] if name in texts else list(MISSING_TEXTS) for name in wanted},
        "skip_blank_lines": False,
        "low_memory": False,
        "skipinitialspace": True,
    }
    try:
        names = [*map(str, range(len(dialect.header))), _OVERFLOW]
        with open_table(path, dialect, names) as stream, warnings.catch_warnings():
            # Fields beyond the overflow column are cut off, which the parser says; that column tells what we need.
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            raw = pd.read_csv(cast("TextIO", stream), **options)
    except pd.errors.ParserError as error:
        raise unreadable(path, f"no table ({error})", "Correct the line.", "row_ragged") from None
    except pd.errors.EmptyDataError:
        raise unreadable(path, "blank", "Bring rows.", "data_empty") from None
    overflow = np.flatnonzero(raw.pop(_OVERFLOW).fillna("").str.strip().ne("").to_numpy(bool))
    if len(overflow):
        line = overflow[0] + dialect.header_line + 1
        actual = f"with more than {len(dialect.header)} fields in line {line} ({len(overflow)} such lines)"
        raise unreadable(path, actual, "Correct it, or quote fields that hold the delimiter.", "row_ragged")
    return raw[list(position.values())].set_axis(list(position), axis=1)


def needed_columns(layout: Layout, config: DataConfig) -> list[str]:
    """Columns of the file that a layout and the configured covariates need."""
    roles = (*config.futr_exog, *config.hist_exog, *config.stat_exog) if layout.kind == "long" else ()
    wanted = (layout.id_col, *layout.time_cols, layout.target_col, *layout.series_cols, *roles)
    return list(dict.fromkeys(name for name in wanted if name is not None))


def _blank_rows(raw: pd.DataFrame, layout: Layout) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return raw[list(layout.time_cols)].isna().all(axis=1).to_numpy(bool) & raw.isna().all(axis=1).to_numpy(bool)


def _id_hint(texts: Sequence[str], layout: Layout) -> str | None:
    if layout.kind != "long" or layout.id_col is not None:
        return None
    others = [name for name in texts if name not in (*layout.time_cols, layout.target_col)]
    if not others:
        return None
    named = ", ".join(repr(name) for name in others[:MAX_SHOWN])
    return f"If a column names the series ({named}), set data.id_col; else keep one row per time."


def _long_frame(raw: pd.DataFrame, layout: Layout, path: Path, config: DataConfig) -> pd.DataFrame:
    if layout.id_col is None:
        raw["unique_id"] = _one_name(len(raw), layout, path)
    elif isinstance(raw[layout.id_col].dtype, pd.CategoricalDtype):
        raw["unique_id"] = raw[layout.id_col]
    else:
        codes, uniques = pd.factorize(raw[layout.id_col])
        raw["unique_id"] = pd.Categorical.from_codes(codes, pd.Index(uniques, dtype="str"))
    if len(layout.time_cols) > 1:
        raw["ds"] = raw[layout.time_cols[0]].str.cat(raw[list(layout.time_cols[1:])], sep=" ")
    else:
        raw["ds"] = raw[layout.time_cols[0]]
    raw["y"] = raw[layout.target_col]
    return raw[["unique_id", "ds", "y", *config.futr_exog, *config.hist_exog, *config.stat_exog]].copy()


def _wide_frame(raw: pd.DataFrame, layout: Layout, first_line: int = 1) -> pd.DataFrame:
    count, names = len(raw), list(layout.series_cols)
    not_numeric = [name for name in names if not pd.api.types.is_numeric_dtype(raw[name].dtype)]
    if not_numeric:
        column = raw[not_numeric[0]]
        bad = pd.to_numeric(column, errors="coerce").isna() & column.notna()
        where = f"column {not_numeric[0]!r}, line {int(np.argmax(bad.to_numpy())) + first_line}"
        message = f"must hold a number, but holds text ({int(bad.sum())} rows of this column)."
        raise DataError([Problem("target_not_numeric", where, message, "Replace it by a number or an empty field.")])
    codes = np.repeat(np.arange(len(names)), count)
    times = raw[layout.time_cols[0]]
    if len(layout.time_cols) > 1:
        times = times.str.cat(raw[list(layout.time_cols[1:])], sep=" ")
    return pd.DataFrame(
        {
            "unique_id": pd.Categorical.from_codes(codes, pd.Index(names, dtype="str")),
            "ds": pd.concat([times] * len(names), ignore_index=True),
            "y": np.concatenate([raw[name].to_numpy(np.float64, na_value=np.nan) for name in names]),
        }
    )


def _with_times(frame: pd.DataFrame, layout: Layout) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read the text of `ds`; unreadable times become missing and are named by `sort_rows`."""
    times = parse_timestamps(frame["ds"], "+".join(layout.time_cols))
    if times.refusal is not None:
        raise DataError([times.refusal])
    column: pd.Series[Any] = pd.Series(as_times(times.stamps, times.time_kind, times.timezone), index=frame.index)
    if times.bad.any():
        column = column.astype("Int64") if times.time_kind == "integer" else column
        column = column.mask(times.bad)
    frame["ds"] = column
    return frame, times.notes


# ---------------------------------------------------------------------------------------------------------- parquet
def _read_parquet(path: Path, config: DataConfig) -> pd.DataFrame:
    names, head = read_parquet_sample(path)
    layout, id_hint = parquet_layout(names, head, config)
    ids = [layout.id_col] if layout.id_col is not None else []
    columns = read_parquet_columns(path, needed_columns(layout, config), ids)
    return frame_of_columns(columns, layout, path, config, id_hint)


def parquet_layout(names: Sequence[str], head: pd.DataFrame, config: DataConfig) -> tuple[Layout, str | None]:
    """The roles of the columns of a parquet file.

    Args:
        names: Columns.
        head: Their first rows.
        config: What the user said about them.

    Returns:
        Layout, and what to say about timestamps that repeat if no column names the series.
    """
    sample = {name: head[name] for name in names}
    facts = inspect_columns(names, sample)
    layout = resolve_layout(facts, config, guess_layout(facts, count_distinct(facts, sample), len(head)))
    return layout, _id_hint(facts.texts, layout)


def frame_of_columns(
    columns: dict[str, Any], layout: Layout, path: Path, config: DataConfig, id_hint: str | None
) -> pd.DataFrame:
    """Columns of a parquet file as the frame that `read_frame` describes.

    Args:
        columns: As `read_parquet_columns` returns them.
        layout: Their roles.
        path: Names a single series and the source.
        config: Covariates.
        id_hint: What to say about timestamps that repeat.
    """
    notes: list[str] = []
    if layout.kind == "wide" or len(layout.time_cols) > 1:
        texts = dict.fromkeys(layout.time_cols, "str") if len(layout.time_cols) > 1 else {}
        raw = pd.DataFrame(columns).astype(texts)
        frame = _wide_frame(raw, layout) if layout.kind == "wide" else _long_frame(raw, layout, path, config)
    else:
        frame = _frame_without_copy(columns, layout, path, config)
    if layout.kind == "wide":
        notes.append(f"read as wide: {len(layout.series_cols)} series, one per column")
    if not pd.api.types.is_datetime64_any_dtype(frame["ds"].dtype):
        frame, time_notes = _with_times(frame, layout)
        notes += time_notes
    frame.attrs[ATTRS_KEY] = {"source": path.name, "notes": notes, "id_hint": id_hint}
    return frame


def _frame_without_copy(columns: dict[str, Any], layout: Layout, path: Path, config: DataConfig) -> pd.DataFrame:
    ds, target = columns[layout.time_cols[0]], columns[layout.target_col or ""]
    data = {
        "unique_id": columns[layout.id_col] if layout.id_col is not None else _one_name(len(ds), layout, path),
        "ds": ds,
        "y": target,
        **{name: columns[name] for name in (*config.futr_exog, *config.hist_exog, *config.stat_exog)},
    }
    return pd.DataFrame(data, copy=False)


def _one_name(count: int, layout: Layout, path: Path) -> pd.Categorical:
    return pd.Categorical.from_codes(np.zeros(count, np.int8), pd.Index([single_name(layout, path)], dtype="str"))


def single_name(layout: Layout, path: Path) -> str:
    """What the series of a file without names of series is called: by its target, or by the file."""
    return layout.target_col if layout.target_col not in (None, "y") else path.name.split(".")[0]
