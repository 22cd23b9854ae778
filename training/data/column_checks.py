"""Checks of the audit that look at one column at a time: names of series, covariates, text where numbers are due."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.config import DataConfig
from training.data.covariates import MAX_CATEGORIES, ROLES, is_text
from training.data.findings import AuditProblem, Severity
from training.data.rows import file_line
from training.data.series_checks import find_outliers, find_sentinel
from training.errors import MAX_SHOWN


def check_target(frame: pd.DataFrame) -> tuple[NDArray[np.float64], list[AuditProblem]]:
    """The target as numbers, NaN where it is none, and what was in the way."""
    column = frame["y"]
    numbers = column if pd.api.types.is_numeric_dtype(column.dtype) else pd.to_numeric(column, errors="coerce")
    values = numbers.to_numpy(np.float64, na_value=np.nan).copy()
    problems = []
    for text, rows in _texts_among_numbers(column, values).items():
        message = f"y is the text {text[:40]!r} in {len(rows)} row(s)."
        problems.append(
            _at(frame, "target_not_numeric", "error", rows, message, "Replace it by a number or an empty field.")
        )
    infinite = np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)
    if len(infinite):
        message = f"y is infinite or beyond 3e38 in {len(infinite)} row(s)."
        problems.append(
            _at(frame, "target_infinite", "error", infinite, message, "Replace it by a number or an empty field.")
        )
        values[infinite] = np.nan
    return values, problems


def _texts_among_numbers(column: pd.Series, values: NDArray[np.float64]) -> dict[str, NDArray[np.int64]]:
    rows = np.flatnonzero(np.isnan(values) & column.notna().to_numpy(bool))
    found: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[str(column.iloc[row]) if len(found) < MAX_SHOWN or str(column.iloc[row]) in found else "..."].append(
            int(row)
        )
    return {text: np.array(places) for text, places in found.items()}


def _at(
    frame: pd.DataFrame, code: str, severity: Severity, rows: NDArray[np.int64], message: str, fix: str
) -> AuditProblem:
    name = frame["unique_id"].iloc[int(rows[0])]
    line = file_line(frame, int(rows[0]))
    row = int(rows[0]) + 1 if line is None else line
    return AuditProblem(code, severity, None if pd.isna(name) else str(name), row, len(rows), message, fix)


def check_names(names: Sequence[str]) -> Iterator[AuditProblem]:
    """Series whose names differ in blanks or case alone."""
    plain = Counter(name.strip().casefold() for name in names)
    similar = [name for name in names if plain[name.strip().casefold()] > 1]
    if similar:
        some = ", ".join(repr(name) for name in similar[:MAX_SHOWN])
        message = f"{len(similar)} series names differ in blanks or case alone: {some}."
        yield AuditProblem("ids_similar", "warning", None, None, len(similar), message, "Spell one series one way.")


def check_covariates(frame: pd.DataFrame, y: NDArray[np.float64], config: DataConfig) -> Iterator[AuditProblem]:
    """Findings about every column besides series, time and target, whether it has a role or not."""
    roles = {name: role for role in ROLES for name in getattr(config, role)}
    for name in frame.columns:
        if name in ("unique_id", "ds", "y"):
            continue
        column = frame[name]
        if is_text(column):
            yield from _check_text(frame, column, roles.get(str(name)))
        else:
            yield from _check_numbers(frame, column, y)
    unused = [str(name) for name in frame.columns if name not in ("unique_id", "ds", "y") and name not in roles]
    if unused:
        named = ", ".join([*unused[:12], *(["..."] if len(unused) > 12 else [])])
        message = f"{len(unused)} column(s) have no role and are not read: {named}."
        fix = (
            "Name covariates in data.futr_exog (known ahead), data.hist_exog (past only) or data.stat_exog (constant)."
        )
        yield AuditProblem("columns_unused", "info", None, None, len(unused), message, fix)


def _check_text(frame: pd.DataFrame, column: pd.Series, role: str | None) -> Iterator[AuditProblem]:
    values = column.astype("str")
    counts = values.value_counts()
    numbers = pd.to_numeric(pd.Series(counts.index), errors="coerce").notna().to_numpy()
    severity: Severity = "error" if role is not None else "info"
    if len(counts) > 1 and counts.to_numpy()[numbers].sum() > 0.5 * len(column):
        text = str(counts.index[~numbers][0]) if (~numbers).any() else ""
        rows = np.flatnonzero((values == text).to_numpy())
        message = f"column {column.name!r} holds numbers, but also the text {text[:40]!r} ({len(rows)} rows)."
        yield _at(frame, "covariate_not_numeric", severity, rows, message, "Replace the text by empty fields.")
    elif len(counts) > MAX_CATEGORIES and role is not None:
        message = f"column {column.name!r} has {len(counts)} categories, more than {MAX_CATEGORIES}."
        yield AuditProblem(
            "covariate_categories", "error", None, None, len(counts), message, "Group the rare ones, or leave it out."
        )
    none = np.flatnonzero(values.isin(["None", "none"]).to_numpy())
    if len(none):
        message = f"column {column.name!r} holds the text 'None' in {len(none)} row(s): a category here, often read as missing."
        yield _at(frame, "covariate_none", "info", none, message, "Turn it into 0/1 if it means that there is none.")


def _check_numbers(frame: pd.DataFrame, column: pd.Series, y: NDArray[np.float64]) -> Iterator[AuditProblem]:
    values = column.to_numpy(np.float64, na_value=np.nan)
    missing = np.flatnonzero(np.isnan(values))
    if len(missing) == len(values):
        yield AuditProblem(
            "covariate_empty", "info", None, None, len(values), f"column {column.name!r} is empty.", "Leave it out."
        )
        return
    if len(missing):
        message = f"column {column.name!r} has no value in {len(missing):,} of {len(values):,} rows."
        yield _at(
            frame, "covariate_missing_values", "info", missing, message, "As a covariate, the value before is repeated."
        )
    found = find_sentinel(values)
    if found is not None:
        sentinel, rows = found
        message = (
            f"column {column.name!r} is exactly {sentinel:g} in {len(rows):,} row(s), far from all others: missing?"
        )
        yield _at(frame, "sentinel", "warning", rows, message, f"Replace {sentinel:g} by an empty field.")
    far = find_outliers(values) if found is None else np.zeros(0, np.int64)
    zero = _impossible_zeros(values)
    if len(far):
        message = f"column {column.name!r} has {len(far)} value(s) 100 middle spreads off the median, first {values[far[0]]:g}."
        yield _at(frame, "outliers", "info", far, message, "Correct them before using the column.")
    if len(zero):
        message = f"column {column.name!r} is 0 in {len(zero)} rows, far from all others: missing?"
        yield _at(frame, "sentinel", "warning", zero, message, "Replace 0 by an empty field.")
    if re.search(r"capacity|limit|maximum", str(column.name), re.IGNORECASE):
        with np.errstate(invalid="ignore"):
            above = np.flatnonzero(y > values)
        if len(above):
            message = f"y exceeds column {column.name!r} in {len(above)} rows."
            yield _at(frame, "above_capacity", "warning", above, message, "Check which of the two is wrong.")


def _impossible_zeros(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Zeros in a column that never comes near zero otherwise: 0 kelvin, a pressure of 0."""
    zero = values == 0
    others = np.abs(values[~zero & ~np.isnan(values)])
    if not zero.any() or zero.mean() > 0.05 or len(others) < 100:
        return np.zeros(0, np.int64)
    near = float(others.min())
    return (
        np.flatnonzero(zero)
        if near > 2 * float(np.subtract(*np.percentile(others, [75, 25])))
        else np.zeros(0, np.int64)
    )
