"""The audit behind `gradcast validate`: every problem of a file with its series and line; fixes offered, none made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.config import DataConfig
from training.data.column_checks import check_covariates, check_names, check_target
from training.data.dialect import detect_container, read_dialect
from training.data.findings import Audit, AuditProblem, sort_problems
from training.data.frequency import FrequencyFinding, default_season_length, grid_clock, infer_frequency
from training.data.layout import ColumnFacts, Layout, count_distinct, guess_layout, inspect_columns, resolve_layout
from training.data.panel import build_panel
from training.data.parquet import read_parquet_sample
from training.data.parquet_folder import open_table, sample_folder
from training.data.readers import read_frame, sample_frame
from training.data.rows import ATTRS_KEY, SortedRows, duplicate_rows, file_line, sort_rows
from training.data.series_checks import AuditedSeries, check_series
from training.data.timestamps import parse_timestamps
from training.errors import MAX_SHOWN, DataError, Problem

__all__ = ["Audit", "AuditProblem", "audit_file"]


def audit_file(path: Path, config: DataConfig) -> Audit:
    """Look at a data file, or a folder of parquet, as training would, and beyond its first refusal.

    Where the configured columns are not in the file, others are proposed and the audit goes on with them.

    Args:
        path: The file or folder; rows of a folder are counted through all its files, in the order of their names.
        config: Columns, frequency and fill policy.

    Returns:
        Everything found; bad data never raises.
    """
    path = Path(path)
    problems: list[AuditProblem] = []
    summary: dict[str, Any] = {}
    try:
        used = _choose_columns(path, config, problems, summary)
        if used is not None:
            frame = _read_folder(path, used, summary) if path.is_dir() else read_frame(path, used)
            _audit_frame(frame, config, used, problems, summary)
    except DataError as error:
        problems += [_from_problem(problem) for problem in error.problems]
    return Audit(str(path), summary, sort_problems(problems))


def _read_folder(path: Path, config: DataConfig, summary: dict[str, Any]) -> pd.DataFrame:
    """All rows of all files; a table with a column per series is refused, as training does."""
    table = open_table(path, config)
    table.require_long()
    summary["files"] = len(table.files)
    return table.read(table.pieces(0, int(table.ends[-1])))


def _from_problem(problem: Problem) -> AuditProblem:
    return AuditProblem(problem.code, "error", None, None, 1, f"{problem.where}: {problem.message}", problem.remedy)


def _choose_columns(
    path: Path, config: DataConfig, problems: list[AuditProblem], summary: dict[str, Any]
) -> DataConfig | None:
    """The configuration to read the file with: all other columns become past-only covariates, so that they are seen."""
    container = "parquet" if path.is_dir() else detect_container(path)
    summary["format"] = container
    if container == "tsf":
        return config
    facts, num_unique, num_rows = _column_facts(path, container, problems)
    guess = guess_layout(facts, num_unique, num_rows)
    try:
        layout = resolve_layout(facts, config, guess)
    except DataError as error:
        problems += [replace(_from_problem(problem), fix="") for problem in error.problems]
        if guess is None:
            problems.append(_no_layout(facts))
            return None
        message = f"the columns of the file suggest {_describe(guess)}; the audit goes on with them."
        problems.append(AuditProblem("columns_suggested", "info", None, None, 1, message, guess.settings()))
        layout = guess
    summary["layout"] = layout.kind
    summary["columns"] = _describe(layout)
    # A column that has one of our own names without being it cannot be a covariate beside it.
    taken = {layout.id_col, layout.target_col, *layout.time_cols, *layout.series_cols, "unique_id", "ds", "y"}
    others = (
        []
        if layout.kind == "wide"
        else [name for name in facts.names if name and name not in taken and facts.names.count(name) == 1]
    )
    readable = [name for name in others if not _is_nested(facts, name)]
    return config.model_copy(
        update={
            "format": layout.kind,
            "id_col": layout.id_col or config.id_col,
            "time_col": "+".join(layout.time_cols),
            "target_col": layout.target_col or config.target_col,
            "futr_exog": (),
            "hist_exog": tuple(readable),
            "stat_exog": (),
        }
    )


def _is_nested(facts: ColumnFacts, name: str) -> bool:
    return name not in (*facts.times, *facts.clocks, *facts.numbers, *facts.texts)


def _column_facts(path: Path, container: str, problems: list[AuditProblem]) -> tuple[ColumnFacts, dict[str, int], int]:
    if container == "parquet":
        names, head = sample_folder(path) if path.is_dir() else read_parquet_sample(path)
        sample, num_rows = {name: head[name] for name in names}, len(head)
    else:
        dialect = read_dialect(path)
        sample, names, num_rows = sample_frame(dialect), dialect.header, len(dialect.sample)
        problems += [AuditProblem("file_format", "info", None, 1, 1, f"{note}.") for note in dialect.notes]
    facts = inspect_columns(names, sample)
    return facts, count_distinct(facts, sample), num_rows


def _no_layout(facts: ColumnFacts) -> AuditProblem:
    lacking = "no column that holds times" if not facts.times else "no column that holds numbers"
    message = f"the file has {lacking} among {', '.join(facts.names[: 2 * MAX_SHOWN])}."
    return AuditProblem("columns_not_found", "error", None, 1, 1, message, "Bring a table of unique_id, ds, y.")


def _describe(layout: Layout) -> str:
    time = "+".join(layout.time_cols)
    if layout.kind == "wide":
        return f"time {time!r}, one series per column ({len(layout.series_cols)})"
    series = f"series {layout.id_col!r}" if layout.id_col is not None else "one series"
    return f"time {time!r}, target {layout.target_col!r}, {series}"


def _audit_frame(
    frame: pd.DataFrame, config: DataConfig, used: DataConfig, problems: list[AuditProblem], summary: dict[str, Any]
) -> None:
    origin = frame.attrs.get(ATTRS_KEY, {})
    notes = [note for note in origin.get("notes", ()) if not any(note in problem.message for problem in problems)]
    problems += [AuditProblem("file_format", "info", None, None, 1, f"{note}.") for note in notes]
    summary["rows"] = len(frame)
    y, found = check_target(frame)
    problems += found
    kept = _readable_rows(frame, problems)
    if not len(kept):
        return
    rows = sort_rows(frame.iloc[kept])
    lines = _lines(frame, kept)
    problems += _unsorted(frame.iloc[kept], rows, lines)
    summary |= _summary(rows, y)
    problems += check_names(rows.ids)
    order = kept[rows.frame_rows(np.arange(len(kept)))]
    values, at = y[order], None if lines is None else lines[rows.frame_rows(np.arange(len(kept)))]
    rows, keep = _without_duplicates(rows, values, at, problems, origin.get("id_hint"))
    finding = _audit_frequency(rows, used, problems, summary)
    has_grid = finding.frequency is not None and not finding.problems
    season = used.season_length or (default_season_length(finding.frequency) if has_grid and finding.frequency else 1)
    for index, name in enumerate(rows.ids):
        mine = slice(int(rows.offsets[index]), int(rows.offsets[index + 1]))
        series = AuditedSeries(
            name, rows.stamps[mine], values[keep][mine], None if at is None else at[keep][mine],
            finding.frequency if has_grid else None, season, rows.time_kind, rows.timezone,
        )  # fmt: skip
        problems += check_series(series)
    problems += _scales(rows, values[keep])
    problems += check_covariates(frame, y, config)
    if not any(problem.severity == "error" for problem in problems):
        _try_panel(frame, config, used, problems, summary)


def _lines(frame: pd.DataFrame, kept: NDArray[np.int64]) -> NDArray[np.int64] | None:
    if file_line(frame, 0) is None:
        return kept + 1
    return np.array([file_line(frame, int(row)) for row in kept], np.int64)


def _readable_rows(frame: pd.DataFrame, problems: list[AuditProblem]) -> NDArray[np.int64]:
    """Rows with a name and a time; the others are named."""
    times = parse_timestamps(frame["ds"])
    no_name = frame["unique_id"].isna().to_numpy()
    for code, bad, message in (
        ("time_unreadable", times.bad, "ds is missing or no time"),
        ("id_missing", no_name, "the series has no name"),
    ):
        for row in np.flatnonzero(bad)[:MAX_SHOWN]:
            line = file_line(frame, int(row))
            text = f"{message} ({int(bad.sum())} row(s) in all)."
            problems.append(
                AuditProblem(
                    code,
                    "error",
                    None,
                    int(row) + 1 if line is None else line,
                    int(bad.sum()),
                    text,
                    "Correct or remove the row.",
                )
            )
    return np.flatnonzero(~times.bad & ~no_name)


def _unsorted(frame: pd.DataFrame, rows: SortedRows, lines: NDArray[np.int64] | None) -> list[AuditProblem]:
    if rows.order is None:
        return []
    codes = pd.factorize(frame["unique_id"])[0]
    stamps = np.empty(len(codes), np.int64)
    stamps[rows.order] = rows.stamps
    back = np.flatnonzero((codes[1:] == codes[:-1]) & (stamps[1:] < stamps[:-1])) + 1
    if not len(back):
        return []
    row = int(back[0])
    message = (
        f"{len(back)} rows step back in time, first to {rows.time_text(int(np.flatnonzero(rows.order == row)[0]))}."
    )
    where = row + 1 if lines is None else int(lines[row])
    return [
        AuditProblem(
            "unsorted",
            "warning",
            str(frame["unique_id"].iloc[row]),
            where,
            len(back),
            message,
            "Training sorts them; check whether clocks were set back there.",
        )
    ]


def _summary(rows: SortedRows, y: NDArray[np.float64]) -> dict[str, Any]:
    lengths = np.diff(rows.offsets)
    first, last = int(np.argmin(rows.stamps)), int(np.argmax(rows.stamps))
    return {
        "series": len(rows.ids),
        "rows_per_series": {"min": int(lengths.min()), "median": int(np.median(lengths)), "max": int(lengths.max())},
        "start": rows.time_text(first),
        "end": rows.time_text(last),
        "timezone": rows.timezone,
        "missing_y": int(np.isnan(y).sum()),
    }


def _without_duplicates(
    rows: SortedRows,
    values: NDArray[np.float64],
    lines: NDArray[np.int64] | None,
    problems: list[AuditProblem],
    id_hint: str | None,
) -> tuple[SortedRows, NDArray[np.bool_]]:
    """Report repeated timestamps, and go on with the first row of each."""
    repeated = duplicate_rows(rows)
    series = rows.series_of(repeated)
    for index in np.unique(series):
        mine = repeated[series == index]
        other = ~((values[mine] == values[mine - 1]) | (np.isnan(values[mine]) & np.isnan(values[mine - 1])))
        kind = f"{int(other.sum())} of them with another y" if other.any() else "all with the same y"
        message = f"{len(mine)} rows repeat a timestamp, {kind}; first {rows.time_text(int(mine[0]))}."
        fix = id_hint or (
            "Decide which row counts, or write times with their UTC offset."
            if other.any()
            else "Keep one row per time."
        )
        where = None if lines is None else int(max(lines[mine[0]], lines[mine[0] - 1]))
        problems.append(AuditProblem("duplicate_timestamps", "error", rows.ids[index], where, len(mine), message, fix))
    keep = np.ones(len(rows.stamps), np.bool_)
    keep[repeated] = False
    offsets = np.concatenate([[0], np.cumsum(keep)])[rows.offsets]
    unique = replace(rows, stamps=rows.stamps[keep], offsets=offsets, order=None)
    return unique, keep


def _audit_frequency(
    rows: SortedRows, used: DataConfig, problems: list[AuditProblem], summary: dict[str, Any]
) -> FrequencyFinding:
    stamps, is_local = grid_clock(rows)
    local = replace(rows, stamps=stamps, timezone=None) if is_local else rows
    try:
        finding = infer_frequency(local, used.freq)
    except DataError as error:
        finding = FrequencyFinding(None, error.problems)
    problems += [_from_problem(problem) for problem in finding.problems]
    if finding.frequency is not None and not finding.problems:
        summary["freq"] = finding.frequency.alias
    return finding


def _scales(rows: SortedRows, values: NDArray[np.float64]) -> list[AuditProblem]:
    if len(rows.ids) < 2:
        return []
    totals = np.add.reduceat(np.abs(np.nan_to_num(values)), rows.offsets[:-1])
    level = totals / np.maximum(np.add.reduceat(~np.isnan(values), rows.offsets[:-1]), 1)
    level = level[level > 0]
    if len(level) < 2 or level.max() < 1e4 * level.min():
        return []
    message = f"mean sizes of the series range from {level.min():.3g} to {level.max():.3g}."
    return [
        AuditProblem(
            "scales_differ",
            "info",
            None,
            None,
            len(rows.ids),
            message,
            "Scaling per window (model.scaler) takes care of it; errors in the unit of y will be those of the largest.",
        )
    ]


def _try_panel(
    frame: pd.DataFrame, config: DataConfig, used: DataConfig, problems: list[AuditProblem], summary: dict[str, Any]
) -> None:
    """Do what training does, so that nothing it refuses goes unsaid."""
    roles = {"futr_exog": config.futr_exog, "hist_exog": config.hist_exog, "stat_exog": config.stat_exog}
    try:
        panel = build_panel(frame, used.model_copy(update=roles))
    except DataError as error:
        problems += [_from_problem(problem) for problem in error.problems]
        return
    summary |= {
        "season_length": panel.season_length,
        "steps": len(panel.values),
        "calendar": list(panel.columns.calendar),
    }
