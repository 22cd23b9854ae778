"""Which columns of a file are the series, the time and the target: as configured, or as one would guess."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import yaml

from training.config import DataConfig
from training.data.dialect import MISSING_TEXTS
from training.data.timestamps import parse_timestamps
from training.errors import MAX_SHOWN, DataError, Problem
from training.yaml_text import UNREADABLE_YAML, read_yaml

_TIME_NAMES = re.compile(
    r"^(ds|date|time|timestamp|datetime|date_time|day|month|period|week|year|last_?updated)$|date|time", re.IGNORECASE
)
_TARGET_NAMES = re.compile(
    r"^(y|value|values|target|count|sales|demand|load|volume|traffic_volume|consumption|consommation|occupancy|ot|quantity|price)$",
    re.IGNORECASE,
)
_ID_NAMES = re.compile(
    r"^(unique_id|id|series|series_id|series_name|item_id|store|sku|code|name|key)$|_id$|code|name", re.IGNORECASE
)
# Reading times tries many ways of writing them. What has so many columns of text before that of its times is no table of ours.
_MAX_TIME_TRIES = 64


@dataclass(frozen=True)
class Layout:
    """How columns of a file become `unique_id`, `ds` and `y`.

    Attributes:
        kind: One row per series and time, or one column per series.
        id_col: Column that names the series; None for one series.
        time_cols: Column of the time, or the columns of date and clock that make it together.
        target_col: Column to forecast; None for a wide file.
        series_cols: Columns of a wide file that are series.
    """

    kind: Literal["long", "wide"]
    id_col: str | None
    time_cols: tuple[str, ...]
    target_col: str | None
    series_cols: tuple[str, ...] = ()

    def settings(self) -> str:
        """The options that say this layout."""
        options = [f"--set data.time_col={_quoted('+'.join(self.time_cols))}"]
        if self.kind == "wide":
            options.append("--set data.format=wide")
        else:
            options.append(f"--set data.target_col={_quoted(self.target_col or '')}")
        if self.id_col is not None:
            options.append(f"--set data.id_col={_quoted(self.id_col)}")
        return " ".join(options)


def _quoted(name: str) -> str:
    """For a shell, and for YAML, which would take some names for numbers, dates or syntax."""
    try:
        is_plain = read_yaml(name) == name
    except UNREADABLE_YAML:
        is_plain = False
    text = name if is_plain else yaml.safe_dump(name, default_style='"', allow_unicode=True, width=math.inf).strip()
    return shlex.quote(text)


@dataclass(frozen=True)
class ColumnFacts:
    """What a sample tells about the columns.

    Attributes:
        names: All columns, in the order of the file.
        times: Columns that hold times.
        clocks: Columns that hold hours and minutes without a date.
        numbers: Columns that hold numbers.
        texts: Columns that hold other text.
    """

    names: tuple[str, ...]
    times: tuple[str, ...]
    clocks: tuple[str, ...]
    numbers: tuple[str, ...]
    texts: tuple[str, ...]


def inspect_columns(names: Sequence[str], sample: Mapping[str, pd.Series]) -> ColumnFacts:
    """Sort columns by what their first values look like."""
    groups: dict[str, list[str]] = {"times": [], "clocks": [], "numbers": [], "texts": []}
    named = [name for name in names if name]
    looks = {name: _look_at_type(name, sample[name]) for name in named}
    looks |= _look_at_texts({name: sample[name] for name in named if looks[name] is None})
    for name in named:
        groups[looks[name] or "texts"].append(name)
    return ColumnFacts(tuple(names), *(tuple(group) for group in groups.values()))


def count_distinct(facts: ColumnFacts, sample: Mapping[str, pd.Series]) -> dict[str, int]:
    """How many values the columns have that may name series."""
    return {name: sample[name].astype("str").nunique() for name in facts.texts if _ID_NAMES.search(name)}


def _look_at_type(name: str, column: pd.Series) -> str | None:
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return "times"
    if pd.api.types.is_numeric_dtype(column.dtype):
        return "times" if re.fullmatch(r"ds|time|date|timestamp|year", name, re.IGNORECASE) else "numbers"
    return None


def _look_at_texts(columns: Mapping[str, pd.Series]) -> dict[str, str | None]:
    """Columns of text; all of them in one go, for a wide file has thousands."""
    if not columns:
        return {}
    text = pd.concat([column.astype("str") for column in columns.values()], ignore_index=True).str.strip()
    owner = np.repeat(np.arange(len(columns)), [len(column) for column in columns.values()])
    is_there = ~text.isin(MISSING_TEXTS).to_numpy()
    text, owner = text[is_there], owner[is_there]
    counts = np.bincount(owner, minlength=len(columns))

    def share(holds: pd.Series) -> list[float]:
        return list(np.bincount(owner, holds.to_numpy(np.float64, na_value=0.0), len(columns)) / np.maximum(counts, 1))

    clocks = share(text.str.fullmatch(r"\d{1,2}[:.]\d{2}([:.]\d{2})?"))
    numbers = share(pd.to_numeric(text.str.replace(",", ".", regex=False), errors="coerce").notna())
    days = share(text.str.fullmatch(r"(19|20)\d{6}"))
    ends = np.cumsum(counts)
    looks: dict[str, str | None] = {}
    tries = 0
    for index, name in enumerate(columns):
        if not counts[index]:
            looks[name] = "numbers"
        elif clocks[index] > 0.9 and re.search(r"time|hour|heure|clock", name, re.IGNORECASE):
            looks[name] = "clocks"
        elif numbers[index] > 0.5:
            is_time = re.fullmatch(r"ds|date|time|timestamp|year", name, re.IGNORECASE) or days[index] == 1.0
            looks[name] = "times" if is_time else "numbers"
        elif tries < _MAX_TIME_TRIES or _TIME_NAMES.search(name):
            tries += 1
            looks[name] = "times" if _are_times(text.iloc[ends[index] - counts[index] : ends[index]], name) else "texts"
        else:
            looks[name] = "texts"
    return looks


def _are_times(text: pd.Series, name: str) -> bool:
    parsed = parse_timestamps(text, name)
    is_ambiguous = parsed.refusal is not None and parsed.refusal.code == "time_ambiguous"
    return is_ambiguous or (parsed.refusal is None and bool(parsed.bad.mean() < 0.2))


def guess_layout(facts: ColumnFacts, num_unique: Mapping[str, int], num_rows: int) -> Layout | None:
    """The layout that a person would try first; None if there is no time or no number."""
    times = sorted(facts.times, key=lambda name: (not _TIME_NAMES.search(name), facts.names.index(name)))
    if not times or not facts.numbers:
        return None
    time_cols: tuple[str, ...] = (times[0],)
    if facts.clocks and not re.search(r"time", times[0].replace("datetime", ""), re.IGNORECASE):
        time_cols = (times[0], facts.clocks[0])
    ids = [name for name in facts.texts if _ID_NAMES.search(name) and num_unique.get(name, 0) <= max(2, num_rows // 8)]
    named = [name for name in facts.numbers if _TARGET_NAMES.match(name)]
    if not facts.texts and not named and facts.names[0] in time_cols:
        return Layout("wide", None, time_cols, None, facts.numbers)
    target = named[0] if named else facts.numbers[-1 if facts.names[-1] in facts.numbers else 0]
    return Layout("long", ids[0] if ids else None, time_cols, target)


def resolve_layout(facts: ColumnFacts, config: DataConfig, guess: Layout | None) -> Layout:
    """Match the configured columns against those of the file.

    A file counts as wide without being told if it has neither the target's nor the series' column, its first or named
    column holds times, and all others hold numbers.

    Raises:
        DataError: If a column that is needed is absent or there twice.
    """
    names = facts.names
    time_cols = _time_columns(names, config.time_col)
    has_target, has_id = config.target_col in names, config.id_col in names
    if config.format == "wide" or (
        config.format == "auto" and not has_target and not has_id and _may_be_wide(facts, config)
    ):
        time = time_cols or ((names[0],) if names[0] in facts.times or config.format == "wide" else ())
        series = tuple(name for name in names if name and name not in time)
        if config.format == "wide":
            series = tuple(name for name in series if name in facts.numbers)
        if time and series and (config.format == "wide" or set(series) <= set(facts.numbers)):
            if twice := _twice(names, (*time, *series)):
                raise DataError(twice)
            return Layout("wide", None, time, None, series)
    problems = _absent(facts, config, time_cols, has_target, has_id, guess)
    needed = [
        *(time_cols or ()),
        config.target_col,
        config.id_col,
        *config.futr_exog,
        *config.hist_exog,
        *config.stat_exog,
    ]
    problems += _twice(names, needed)
    if problems:
        raise DataError(problems)
    return Layout("long", config.id_col if has_id else None, time_cols or (), config.target_col)


def _twice(names: Sequence[str], needed: Sequence[str]) -> list[Problem]:
    return [
        Problem("column_twice", f"column {name!r}", "is in the file twice.", "Rename one of them.")
        for name in dict.fromkeys(needed)
        if names.count(name) > 1
    ]


def _time_columns(names: Sequence[str], time_col: str) -> tuple[str, ...] | None:
    if time_col in names:
        return (time_col,)
    parts = tuple(part.strip() for part in time_col.split("+"))
    return parts if len(parts) > 1 and all(part in names for part in parts) else None


def _may_be_wide(facts: ColumnFacts, config: DataConfig) -> bool:
    if config.futr_exog or config.hist_exog or config.stat_exog or config.target_col != "y":
        return False
    rest = [name for name in facts.names if name and name not in facts.times]
    return bool(rest) and all(name in facts.numbers for name in rest) and len(facts.times) == 1


def _absent(
    facts: ColumnFacts,
    config: DataConfig,
    time_cols: tuple[str, ...] | None,
    has_target: bool,
    has_id: bool,
    guess: Layout | None,
) -> list[Problem]:
    remedy = f"A guess: {guess.settings()}" if guess is not None else "See gradcast validate."
    listed = ", ".join(repr(name) for name in facts.names[: 2 * MAX_SHOWN]) + (
        ", ..." if len(facts.names) > 2 * MAX_SHOWN else ""
    )
    problems = []
    if time_cols is None:
        message = f"names column {config.time_col!r}, but the file has {listed} instead."
        problems.append(Problem("column_missing", "data.time_col", message, remedy))
    if not has_target:
        message = f"names column {config.target_col!r}, but the file has {listed} instead."
        problems.append(Problem("column_missing", "data.target_col", message, remedy))
    if not has_id and config.id_col != "unique_id":
        message = f"names column {config.id_col!r}, but the file has {listed} instead."
        problems.append(
            Problem("column_missing", "data.id_col", message, "Leave data.id_col out if the file holds one series.")
        )
    for role in ("futr_exog", "hist_exog", "stat_exog"):
        for name in getattr(config, role):
            if name not in facts.names:
                message = f"names column {name!r}, but the file has {listed} instead."
                problems.append(
                    Problem("covariate_missing", f"data.{role}", message, "Correct the name, or add the column.")
                )
    return problems
