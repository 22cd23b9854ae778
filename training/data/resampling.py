"""Rows at irregular times brought to a regular step: the mean of what falls into each step, on request."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.covariates import is_text
from training.data.rows import ATTRS_KEY
from training.data.steps import DAY, WEEK, Frequency, parse_frequency
from training.data.timestamps import as_times, parse_timestamps, wall_clock
from training.errors import DataError, Problem


def resample_frame(frame: pd.DataFrame, freq: str | None) -> pd.DataFrame:
    """One row per series and step that holds a row: numbers averaged, of texts the first.

    A step is named by its beginning, and holds what lies before the next one: nothing later than a step moves into it.

    Args:
        frame: Columns `unique_id`, `ds`, `y` and the covariates, in any order.
        freq: The step to bring the rows to; there is none to infer.

    Raises:
        DataError: If no step is named, or the step has no fixed beginning.
    """
    if freq is None:
        message = "must name the step that irregular rows are brought to, but is null instead."
        raise DataError([Problem("freq_missing", "data.freq", message, "Set data.freq, such as 15min or D.")])
    parsed = parse_timestamps(frame["ds"])
    if parsed.refusal is not None or parsed.bad.any():
        return frame  # whoever sorts the rows names those that cannot be read
    frequency = parse_frequency(freq)
    is_local = frequency.kind != "fixed" or frequency.step >= DAY
    timezone = None if is_local else parsed.timezone
    clock = wall_clock(parsed.stamps, parsed.timezone) if is_local and parsed.timezone else parsed.stamps
    begins = step_begins(clock, frequency)
    keyed = frame.assign(ds=as_times(begins, parsed.time_kind, timezone))
    values = [name for name in frame.columns if name not in ("unique_id", "ds")]
    # A column of texts has no mean; its first value of the step stands for it.
    how = {name: "first" if name != "y" and is_text(frame[name]) else "mean" for name in values}
    numbers = {name: pd.to_numeric(frame[name]) for name in values if how[name] == "mean"}
    grouped = keyed.assign(**numbers).groupby(["unique_id", "ds"], sort=False, observed=True, as_index=False)
    result: pd.DataFrame = grouped.agg(how)
    note = f"data.irregular: {len(frame):,} rows averaged into {len(result):,} steps of {frequency.alias}"
    notes = (*frame.attrs.get(ATTRS_KEY, {}).get("notes", ()), *parsed.notes, note)
    result.attrs[ATTRS_KEY] = {"notes": notes}
    return result[list(frame.columns)]


def step_begins(clock: NDArray[np.int64], frequency: Frequency) -> NDArray[np.int64]:
    """The beginning of the step that each timestamp lies in.

    Raises:
        DataError: For steps that are named by their end, or counted in business days.
    """
    if frequency.kind == "integer":
        return np.asarray(clock // frequency.step * frequency.step)
    if frequency.kind == "month_start":
        months = frequency.units(clock)[0]
        anchor = frequency.anchor or 0
        return frequency.stamps((months - anchor) // frequency.step * frequency.step + anchor, 0)
    if frequency.kind != "fixed":
        message = f"must be a step with a beginning to bring irregular rows to, but is {frequency.alias} instead."
        raise DataError([Problem("freq_without_beginning", "data.freq", message, "Use MS, QS, YS, D, h or min.")])
    # 1970-01-01 was a Thursday, weekday 3.
    shift = 0 if frequency.anchor is None or frequency.step % WEEK else (frequency.anchor - 3) % 7 * DAY
    return np.asarray((clock - shift) // frequency.step * frequency.step + shift)
