"""Covariate channels on the grid: filled forward within a series, then with the mean of the training rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.columns import Columns
from training.config import DataConfig
from training.data.assembly import Grid
from training.data.covariates import EncodedColumn, build_vocabulary, encode_column, is_text, last_seen, unseen_notes
from training.data.rows import SortedRows, block_edges, place, training_mask
from training.errors import DataError, Problem


@dataclass(frozen=True)
class Channels:
    """Covariates on the grid.

    Attributes:
        covariates: Channels of every row of the store (T, K).
        fill: Value per channel used before a covariate is first seen (K,).
        future: Known-future channels of the steps after the last row (N, E, K of the known-future columns).
        num_future: Steps after the last row for which every known-future column has a value (N,).
        notes: What was filled or unknown.
    """

    covariates: NDArray[np.float32]
    fill: NDArray[np.float32]
    future: NDArray[np.float32]
    num_future: NDArray[np.int64]
    notes: tuple[str, ...]


def resolve_columns(
    frame: pd.DataFrame, config: DataConfig, rows: SortedRows, grid: Grid, train_end: NDArray[np.int64]
) -> Columns:
    """Choose which covariates are categorical, with the categories that training rows (static: series) show.

    Raises:
        DataError: If a text column has too many categories.
    """
    categories: dict[str, tuple[str, ...]] = {}
    problems: list[Problem] = []
    texts = [name for name in (*config.futr_exog, *config.hist_exog, *config.stat_exog) if is_text(frame[name])]
    is_training = _training_frame_rows(len(frame), rows, grid, train_end) if texts else np.zeros(0, np.bool_)
    trained = np.where(train_end > 0, np.diff(grid.offsets), 0)
    is_trained = _training_frame_rows(len(frame), rows, grid, trained) if texts else is_training
    for name in texts:
        try:
            categories[name] = build_vocabulary(frame[name], is_trained if name in config.stat_exog else is_training)
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(problems)
    return Columns(
        futr_exog=config.futr_exog, hist_exog=config.hist_exog, stat_exog=config.stat_exog, categories=categories
    )


def _training_frame_rows(count: int, rows: SortedRows, grid: Grid, train_end: NDArray[np.int64]) -> NDArray[np.bool_]:
    position = np.arange(grid.num_rows) - np.repeat(grid.offsets[:-1], np.diff(grid.offsets))
    training = np.flatnonzero(position < np.repeat(train_end, np.diff(grid.offsets)))
    source = training if grid.source is None else grid.source[training]
    mask = np.zeros(count, np.bool_)
    mask[rows.frame_rows(source[source >= 0])] = True
    return mask


def build_channels(
    frame: pd.DataFrame,
    columns: Columns,
    rows: SortedRows,
    grid: Grid,
    train_end: NDArray[np.int64],
    fill: NDArray[np.float32] | None,
    out: NDArray[np.float32],
) -> Channels:
    """Encode the covariates that change over time and lay them on the grid.

    Args:
        frame: Holds the covariate columns.
        columns: Roles and vocabulary.
        rows: Order of the frame's rows.
        grid: Rows of the store.
        train_end: Training rows of each series.
        fill: Value per channel of a covariate not seen yet; None is its mean over training rows.
        out: Receives the channels (T, K).

    Raises:
        DataError: If a column of numbers holds text or infinities.
    """
    names = (*columns.futr_exog, *columns.hist_exog)
    num_future_channels = sum(len(columns.categories.get(name, ("",))) for name in columns.futr_exog)
    fills = np.zeros(out.shape[1], np.float32) if fill is None else np.asarray(fill, np.float32).copy()
    future = np.zeros((*grid.future.shape, num_future_channels), np.float32)
    has_value = np.ones(grid.future.shape, np.bool_)
    notes: list[str] = []
    channel = 0
    for name in names:
        column = encode_column(frame[name], columns.categories.get(name), frame)
        notes += unseen_notes(column)
        span = slice(channel, channel + column.width)
        filled, count = _filled_rows(column, rows, grid)
        if count:
            notes.append(f"{name}: {count:,} of {grid.num_rows:,} steps have no value; the value before is repeated")
        out[:, span] = column.channels(filled)
        if column.codes is None:
            if fill is None:
                fills[channel] = training_mean(out[:, channel], grid.offsets, train_end)
            np.copyto(out[:, channel], fills[channel], where=np.isnan(out[:, channel]))
        if channel < num_future_channels:
            present = _future_present(column, rows, grid)
            has_value &= present
            future[:, :, span] = _future_channels(column, rows, grid, filled, present, fills[channel])
        channel += column.width
    num_future = np.minimum.accumulate(has_value, axis=1).sum(axis=1)
    return Channels(out, fills, future, num_future.astype(np.int64), tuple(notes))


def no_channels(num_series: int, num_rows: int) -> Channels:
    """The channels of a panel without covariates."""
    return Channels(
        np.zeros((num_rows, 0), np.float32),
        np.zeros(0, np.float32),
        np.zeros((num_series, 0, 0), np.float32),
        np.zeros(num_series, np.int64),
        (),
    )


def _filled_rows(column: EncodedColumn, rows: SortedRows, grid: Grid) -> tuple[NDArray[np.int64], int]:
    """Frame row whose value each row of the store takes, -1 if there is none yet; and how many steps lack their own."""
    source = np.arange(grid.num_rows) if grid.source is None else grid.source
    own = np.where(source >= 0, rows.frame_rows(source), -1)
    missing = (own < 0) | column.is_missing[own]
    count = int(missing.sum())
    if count:
        newest = last_seen(missing, grid.offsets)
        own = np.where(newest >= 0, own[newest], -1)
    return own, count


def training_mean(channel: NDArray[np.float32], offsets: NDArray[np.int64], train_end: NDArray[np.int64]) -> float:
    """Mean of a channel over the training rows that have a value, 0 if none has; block by block.

    Args:
        channel: One value per row of the store, NaN where unknown.
        offsets: First row of each series, and the end.
        train_end: Training rows of each series.
    """
    total, count = 0.0, 0
    for start, stop in block_edges(len(channel)):
        block = channel[start:stop]
        known = block[training_mask(offsets, train_end, start, stop) & ~np.isnan(block)]
        total, count = total + float(known.sum(dtype=np.float64)), count + len(known)
    return total / count if count else 0.0


def _future_present(column: EncodedColumn, rows: SortedRows, grid: Grid) -> NDArray[np.bool_]:
    row = rows.frame_rows(np.maximum(grid.future, 0))
    return np.asarray((grid.future >= 0) & ~column.is_missing[row])


def _future_channels(
    column: EncodedColumn,
    rows: SortedRows,
    grid: Grid,
    filled: NDArray[np.int64],
    present: NDArray[np.bool_],
    fill: float,
) -> NDArray[np.float32]:
    """Channels of the future steps (N, E, width); a missing one repeats the newest value before it."""
    known = filled[grid.offsets[1:] - 1]
    choices = np.concatenate([known[:, None], rows.frame_rows(np.maximum(grid.future, 0))], axis=1)
    newest = np.maximum.accumulate(np.where(present, np.arange(1, present.shape[1] + 1), 0), axis=1)
    row = np.take_along_axis(choices, newest, axis=1)
    channels = column.channels(row.ravel()).reshape(*row.shape, column.width)
    return np.nan_to_num(channels, nan=fill) if column.codes is None else channels


def build_static(
    frame: pd.DataFrame, columns: Columns, rows: SortedRows, grid: Grid, fill: bool = True
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Channels of the static columns (N, S); a number that a series lacks is the mean of the others, or NaN without `fill`.

    Raises:
        DataError: If a static column changes within a series, or holds text where numbers are due.
    """
    blocks: list[NDArray[np.float32]] = [np.zeros((len(grid.series), 0), np.float32)]
    notes: list[str] = []
    problems: list[Problem] = []
    for name in columns.stat_exog:
        column = encode_column(frame[name], columns.categories.get(name), frame)
        notes += unseen_notes(column)
        row, found = _static_rows(frame, frame[name], rows, grid)
        problems += found
        block = column.channels(row)
        if column.codes is None and fill:
            block = np.nan_to_num(block, nan=float(np.nanmean(block)) if not np.isnan(block).all() else 0.0)
        blocks.append(block)
    if problems:
        raise DataError(problems)
    if columns.series:
        numbers = np.array(columns.series_numbers([rows.ids[index] for index in grid.series]), np.float32)
        blocks.append(numbers[:, None])
        if unseen := int((numbers == 0).sum()):
            notes.append(f"{unseen} of {len(numbers)} series were not trained on; they share one vector")
    return np.concatenate(blocks, axis=1), tuple(notes)


def _static_rows(
    frame: pd.DataFrame, column: pd.Series, rows: SortedRows, grid: Grid
) -> tuple[NDArray[np.int64], list[Problem]]:
    """Frame row that holds each kept series' value, -1 if none does; and the series whose value changes."""
    codes = rows.arrange(pd.factorize(column)[0])
    lengths = np.diff(rows.offsets)
    known = np.flatnonzero(codes >= 0)
    position = np.searchsorted(known, rows.offsets[:-1])
    first = np.append(known, -1)[position]
    first = np.where((first >= 0) & (first < rows.offsets[1:]), first, -1)
    changes = (codes >= 0) & (codes != np.repeat(codes[first], lengths)) & np.repeat(first >= 0, lengths)
    problems = []
    for index in np.unique(rows.series_of(np.flatnonzero(changes))):
        row = int(np.flatnonzero(changes[rows.offsets[index] : rows.offsets[index + 1]])[0] + rows.offsets[index])
        where = f"series {rows.ids[index]!r}, {place(frame, int(rows.frame_rows(np.array([row]))[0]))}"
        message = f"static column {column.name!r} changes within the series."
        problems.append(Problem("static_changes", where, message, "Move it to data.hist_exog or data.futr_exog."))
    kept = first[grid.series]
    return np.where(kept >= 0, rows.frame_rows(kept), -1), problems
