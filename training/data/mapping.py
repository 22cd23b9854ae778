"""A panel larger than memory: built from parquet in one pass, series by series into files, and mapped from there.

Each part of whole series goes through `build_panel`, as it would in memory. What depends on all series (season, calendar,
means that stand for covariates not seen yet) is found at the end from the mapped arrays, by the same functions. Where the rows
of every series lie together, the panel equals the one in memory to the bit.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from models.columns import Columns
from training.config import DataConfig
from training.data.calendar_features import build_calendar, choose_calendar, validate_calendar
from training.data.channels import training_mean
from training.data.covariates import build_vocabulary
from training.data.frequency import default_season_length, estimate_season_length
from training.data.holiday_dates import holiday_features, read_holidays
from training.data.mapped_files import STORE, GrowingFiles, is_intact, map_array, read_json, read_names
from training.data.panel import build_panel, build_regular_panel
from training.data.parquet_folder import ParquetTable, open_table
from training.data.regrouping import MAX_BUCKETS, regroup
from training.data.rows import block_edges
from training.data.series_order import find_cuts
from training.data.splits import training_rows
from training.data.steps import parse_frequency
from training.data.store import Panel
from training.errors import MAX_SHOWN, ConfigurationError, DataError, Problem
from training.file_lock import take_lock

PART_ROWS = 2_000_000
# A panel above this is mapped: the frame that it would be read from takes five times as much.
MAP_THRESHOLD_BYTES = 128 * 2**20
# A store that nobody opened for so long is removed when another one is made.
UNUSED_SECONDS = 30 * 24 * 3600
BUILD_PATIENCE_SECONDS = 6 * 3600.0


class Watch(Protocol):
    """Told how far a long job is; `training.progress.CountProgress` shows it."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """A job begins."""

    def advance(self, count: int) -> None:
        """So much more is done."""

    def stop(self) -> None:
        """The job is over."""


class SilentWatch:
    """Shows nothing."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """A job begins."""

    def advance(self, count: int) -> None:
        """So much more is done."""

    def stop(self) -> None:
        """The job is over."""


def maps_directory() -> Path:
    """Where stores are kept: under XDG_CACHE_HOME, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradcast" / "panels"


def load_table(
    table: ParquetTable, horizon: int = 0, columns: Columns | None = None, watch: Watch | None = None
) -> Panel:
    """The panel of a table: in memory, or mapped, as `data.storage` says or its size asks for.

    Args:
        table: The rows.
        horizon: As in `build_panel`.
        columns: As in `build_panel`.
        watch: Told how far it is where it takes long.
    """
    table.require_long()
    config, num_rows = table.config, int(table.ends[-1])
    # One channel per covariate; those of text become more, which is known only after they were read.
    num_bytes = num_rows * (5 + 4 * (len(config.futr_exog) + len(config.hist_exog)))
    if config.storage == "map" or (config.storage == "auto" and num_bytes > MAP_THRESHOLD_BYTES):
        return map_panel(table, horizon, columns, watch)
    rows = table.gather(table.pieces(0, num_rows))
    panel = build_regular_panel(rows, config, columns, horizon)
    return panel or build_panel(rows.frame(), config, columns=columns, horizon=horizon)


def map_panel(
    table: ParquetTable,
    horizon: int = 0,
    columns: Columns | None = None,
    watch: Watch | None = None,
    part_rows: int = PART_ROWS,
) -> Panel:
    """The panel of a table, built on disk if it is not there yet, and mapped.

    A build that ended early goes on with the part it was at. A store is known by the table's names, sizes and footers and by
    what decides the panel; its hashes are checked whenever it is opened, and it is built anew if one is wrong.

    Args:
        table: The rows.
        horizon: As in `build_panel`.
        columns: As in `build_panel`.
        watch: Told how far it is.
        part_rows: Rows that are in memory together, about.

    Raises:
        DataError: With everything found wrong in the part where something is.
        ConfigurationError: If another process has been building the same store for hours.
    """
    folder = maps_directory() / _key(table, horizon, columns, part_rows)
    folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder.with_suffix(".lock"), BUILD_PATIENCE_SECONDS)
    if lock is None:
        message = f"must be free, but another process is building {folder}."
        raise ConfigurationError([Problem("store_busy", "data.storage", message, "Wait for it, or end it.")])
    try:
        found = read_json(folder / STORE)
        if found is None or not is_intact(folder, found["sha256"]):
            if found is not None:
                shutil.rmtree(folder)
            _remove_unused(folder.parent)
            _Build(table, folder, horizon, columns, watch or SilentWatch()).run(part_rows)
        (folder / STORE).touch()
        return _open(folder)
    finally:
        os.close(lock)


def _key(table: ParquetTable, horizon: int, columns: Columns | None, part_rows: int) -> str:
    config = table.config.model_dump_json(exclude={"path", "storage"})
    known = "" if columns is None else columns.model_dump_json()
    return hashlib.sha256(f"{table.fingerprint}|{config}|{horizon}|{known}|{part_rows}".encode()).hexdigest()[:32]


def _remove_unused(folder: Path) -> None:
    for store in folder.glob(f"*/{STORE}"):
        if time.time() - store.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(store.parent, ignore_errors=True)


class _Build:
    """One store on its way from the table to `store.json`."""

    def __init__(self, table: ParquetTable, folder: Path, horizon: int, columns: Columns | None, watch: Watch) -> None:
        self.table, self.folder, self.horizon, self.columns, self.watch = table, folder, horizon, columns, watch

    def run(self, part_rows: int) -> None:
        """Build it."""
        table, cuts = self._together(part_rows)
        files = GrowingFiles(self.folder)
        vocabulary = self.columns or _vocabulary(table, cuts, self.horizon)
        self.watch.start("map the data", cuts[-1], "rows", cuts[len(files.parts)])
        try:
            for number in range(len(files.parts), len(cuts) - 1):
                self._add(files, table, table.pieces(cuts[number], cuts[number + 1]), vocabulary)
                self.watch.advance(cuts[number + 1] - cuts[number])
        finally:
            self.watch.stop()
        if not any(part["num_series"] for part in files.parts):
            message = "has no value in any series."
            raise DataError([Problem("target_all_missing", "column 'y'", message, "Check data.target_col.")])
        files.finish(_meaning(table.config, self.folder, files.parts, vocabulary, self.columns is not None, self.horizon))
        shutil.rmtree(self.folder / "regrouped", ignore_errors=True)

    def _together(self, part_rows: int) -> tuple[ParquetTable, tuple[int, ...]]:
        """The table, with the rows of every series together, and where to cut it."""
        table, total = self.table, int(self.table.ends[-1])
        folder = self.folder / "regrouped"
        if not folder.is_dir():
            self.watch.start("look for series", total, "rows")
            cuts = find_cuts(table, part_rows, self.watch.advance)
            self.watch.stop()
            if cuts is not None:
                return table, cuts
            num_buckets = min(-(-total // part_rows), MAX_BUCKETS)
            self.watch.start("bring series together", total, "rows")
            regroup(table, folder, num_buckets, self.watch.advance)
            self.watch.stop()
        grouped = open_table(folder, table.said_config)
        return grouped, (0, *grouped.ends.tolist())

    def _add(self, files: GrowingFiles, table: ParquetTable, pieces: Any, vocabulary: Columns) -> None:
        first = next((part for part in files.parts if part["num_series"]), None)
        config = table.config.model_copy(update={"freq": first["freq"]} if first is not None else {})
        num_channels = len(vocabulary.past_features) - len(vocabulary.calendar)
        unknown = np.full(num_channels, np.nan, np.float32)
        local = vocabulary.model_copy(update={"calendar": (), "holidays": {}})
        gathered = table.gather(pieces)
        panel = build_regular_panel(gathered, config, local, self.horizon)
        if panel is not None:
            newest = int((panel.starts.view(np.int64) + (panel.lengths - 1) * panel.frequency.step).max())
        else:
            rows = gathered.frame()
            if not rows["y"].notna().any():
                files.append((), {}, {"num_series": 0, "dropped": rows["unique_id"].nunique()})
                return
            panel = build_panel(rows, config, local, self.horizon, unknown, fill_static=False)
            newest = int(rows["ds"].max()) if panel.time_kind == "integer" else _microseconds(rows["ds"].max())
        if first is not None and (panel.timezone, panel.time_kind) != (first["timezone"], first["time_kind"]):
            message = f"must be on one clock, but holds {first['timezone']} and {panel.timezone}."
            raise DataError([Problem("time_mixed", "column 'ds'", message, "Bring all times to one zone.")])
        part = {
            "num_series": panel.num_series,
            "freq": panel.freq,
            "timezone": panel.timezone,
            "time_kind": panel.time_kind,
            "future_steps": panel.future_extra.shape[1],
            "has_guesses": panel.filled is not None,
            "newest": newest,
            "notes": list(panel.notes),
        }
        files.append(panel.ids, _arrays(panel), part)


def _microseconds(time: pd.Timestamp) -> int:
    return int(time.tz_convert("UTC").tz_localize(None).as_unit("us").value if time.tzinfo else time.as_unit("us").value)


def _arrays(panel: Panel) -> dict[str, NDArray[Any]]:
    filled = np.zeros(len(panel.observed), np.bool_) if panel.filled is None else panel.filled
    values: NDArray[np.float32] = panel.values  # noqa: PD011  an array of ours, not a frame's
    return {
        "values": values, "observed": panel.observed, "filled": filled, "covariates": panel.covariates,
        "static": panel.static, "future": panel.future_extra, "num_future": panel.num_future,
        "lengths": panel.lengths, "starts": panel.starts.view(np.int64),
    }  # fmt: skip


def _vocabulary(table: ParquetTable, cuts: tuple[int, ...], horizon: int) -> Columns:
    """Roles, and the categories of columns of text: those take a pass of their own over the table."""
    config = table.config
    roles = {"futr_exog": config.futr_exog, "hist_exog": config.hist_exog, "stat_exog": config.stat_exog}
    texts = [name for names in roles.values() for name in names if _is_text(table.fields[name])]
    found: dict[str, set[str]] = {name: set() for name in texts}
    if texts:
        plain = table.config.model_copy(update={"calendar": "none"})
        for start, stop in pairwise(cuts):
            rows = table.read(table.pieces(start, stop))
            if rows["y"].notna().any():
                for name, values in build_panel(rows, plain, horizon=horizon).columns.categories.items():
                    found[name] |= set(values)
    joined = {name: pd.Series(sorted(values), name=name, dtype=object) for name, values in found.items()}
    categories = {name: build_vocabulary(values, np.ones(len(values), np.bool_)) for name, values in joined.items()}
    return Columns(**roles, categories=categories)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _meaning(
    config: DataConfig, folder: Path, parts: list[dict[str, Any]], columns: Columns, is_known: bool, horizon: int
) -> dict[str, Any]:
    """What depends on all series; stands in for values never seen in the files."""
    first = next(part for part in parts if part["num_series"])
    lengths, starts = np.asarray(map_array(folder, "lengths")), np.asarray(map_array(folder, "starts"))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    train_end = training_rows(lengths, horizon, config.val_size, config.test_size)
    frequency = parse_frequency(first["freq"])
    if not is_known:
        newest = max(part["newest"] for part in parts if part["num_series"])
        holidays = read_holidays(config.holidays, frequency, int(starts.min()), newest)
        calendar = (*choose_calendar(config.calendar, frequency, int(lengths.max())), *holiday_features(holidays))
        columns = columns.model_copy(update={"calendar": calendar, "holidays": holidays})
    validate_calendar(columns.calendar, columns.holidays)
    fill = _fill_unseen(folder, columns, offsets, train_end)
    season = config.season_length
    if season is None and is_known:
        season = default_season_length(frequency)
    elif season is None:
        values, observed = map_array(folder, "values"), map_array(folder, "observed")
        season = estimate_season_length(frequency, values, observed, offsets, train_end)
    return {
        "columns": columns.model_dump(mode="json"), "covariate_fill": fill.tolist(), "horizon": horizon, "season_length": season,
        "freq": first["freq"], "time_kind": first["time_kind"], "timezone": first["timezone"], "fill": config.fill,
        "target": config.target_col, "parts": parts, "notes": _notes(parts),
    }  # fmt: skip


def _fill_unseen(
    folder: Path, columns: Columns, offsets: NDArray[np.int64], train_end: NDArray[np.int64]
) -> NDArray[np.float32]:
    num_channels = len(columns.past_features) - len(columns.calendar)
    fill = np.zeros(num_channels, np.float32)
    table = map_array(folder, "covariates", num_channels, writable=True)
    names = (*columns.future_features[: len(columns.future_features) - len(columns.calendar)],
             *columns.past_features[len(columns.future_features) :])  # fmt: skip
    texts = {f"{name}={category}" for name, categories in columns.categories.items() for category in categories}
    for channel in (index for index, name in enumerate(names) if name not in texts and len(table)):
        fill[channel] = training_mean(table[:, channel], offsets, train_end)
        for start, stop in block_edges(len(table)):
            block = table[start:stop, channel]
            np.copyto(block, fill[channel], where=np.isnan(block))
    static = map_array(folder, "static", columns.num_static_channels, writable=True)
    for channel in range(static.shape[1] if len(static) else 0):
        column = static[:, channel]
        known = column[~np.isnan(column)]
        np.copyto(column, known.mean() if len(known) else 0.0, where=np.isnan(column))
    for array in (table, static):
        if isinstance(array, np.memmap):
            array.flush()
    return fill


def _notes(parts: list[dict[str, Any]]) -> list[str]:
    """What the parts say; the same sentence once, and of many different ones the first."""
    said = list(dict.fromkeys(note for part in parts for note in part.get("notes", ())))
    dropped = sum(part.get("dropped", 0) for part in parts)
    empty = [f"{dropped} more series without any value left out"] if dropped else []
    more = [f"and {len(said) - MAX_SHOWN} more sentences like these, of other parts of the data"] if len(said) > MAX_SHOWN else []
    return [*said[:MAX_SHOWN], *more, *empty]


def _open(folder: Path) -> Panel:
    meaning = read_json(folder / STORE)
    columns = Columns.model_validate(meaning["columns"])
    num_channels = len(columns.past_features) - len(columns.calendar)
    lengths, starts = np.asarray(map_array(folder, "lengths")), np.asarray(map_array(folder, "starts"))
    parts = [part for part in meaning["parts"] if part["num_series"]]
    covariates = map_array(folder, "covariates", num_channels)
    if not num_channels:
        covariates = np.zeros((int(lengths.sum()), 0), np.float32)
    static = map_array(folder, "static", columns.num_static_channels)
    if not columns.num_static_channels:
        static = np.zeros((len(lengths), 0), np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    frequency, horizon = parse_frequency(meaning["freq"]), meaning["horizon"]
    calendar, calendar_start = build_calendar(
        columns.calendar, frequency, starts, lengths, horizon, meaning["timezone"], columns.holidays
    )
    num_known = len(columns.future_features) - len(columns.calendar)
    fill = np.array(meaning["covariate_fill"], np.float32)
    return Panel(
        ids=read_names(folder), offsets=offsets, values=map_array(folder, "values"), observed=map_array(folder, "observed"),
        filled=map_array(folder, "filled") if any(part["has_guesses"] for part in parts) else None,
        fill=meaning["fill"], covariates=covariates, covariate_fill=fill, static=static,
        future_extra=_future(folder, parts, num_known, covariates[offsets[1:] - 1, :num_known], fill[:num_known]),
        num_future=np.asarray(map_array(folder, "num_future")), calendar=calendar, calendar_start=calendar_start,
        horizon=horizon, starts=starts if meaning["time_kind"] == "integer" else starts.view("M8[us]"),
        freq=meaning["freq"], season_length=meaning["season_length"], time_kind=meaning["time_kind"],
        timezone=meaning["timezone"], columns=columns, target=meaning["target"], notes=tuple(meaning["notes"]),
    )  # fmt: skip


def _future(
    folder: Path, parts: list[dict[str, Any]], width: int, last: NDArray[np.float32], fill: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Channels of the steps after the last row; parts that know fewer steps repeat their newest value."""
    num_steps = max(part["future_steps"] for part in parts)
    future = np.zeros((len(last), num_steps, width), np.float32)
    stored = np.asarray(map_array(folder, "future"))
    row = position = 0
    for part in parts:
        stop, steps = row + part["num_series"], part["future_steps"]
        count = part["num_series"] * steps * width
        future[row:stop, :steps] = stored[position : position + count].reshape(part["num_series"], steps, width)
        future[row:stop, steps:] = (future[row:stop, steps - 1] if steps else last[row:stop])[:, None]
        row, position = stop, position + count
    return np.where(np.isnan(future), fill, future)
