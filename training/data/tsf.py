"""The text format of the Monash archive: attributes in a header, then one series per line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from training.data.dialect import find_encoding, open_bytes, unreadable
from training.data.rows import ATTRS_KEY
from training.data.steps import parse_frequency
from training.data.timestamps import parse_timestamps
from training.errors import DataError, Problem

# Names of steps in the archive. Its yearly and quarterly series start on the first day of a month.
_FREQUENCIES = {
    "yearly": "YS", "quarterly": "QS", "monthly": "MS", "weekly": "7D", "daily": "D", "hourly": "h",
    "half_hourly": "30min", "10_minutes": "10min", "4_seconds": "4s", "minutely": "min", "15_minutes": "15min",
    "5_minutes": "5min", "1_minute": "min",
}  # fmt: skip


@dataclass(frozen=True)
class _Header:
    attributes: tuple[tuple[str, str], ...]
    frequency: str | None
    data_line: int


def read_tsf(path: Path) -> pd.DataFrame:
    """Read a .tsf file into `unique_id`, `ds`, `y`; other attributes of a series become static columns.

    Series without a start timestamp count their steps as integers.

    Raises:
        DataError: If a line does not follow the format; the line is named.
    """
    encoding = find_encoding(path)
    with open_bytes(path) as stream:
        lines = stream.read().decode(encoding, errors="replace").splitlines()
    header = _read_header(path, lines)
    series = [
        (number, line) for number, line in enumerate(lines[header.data_line :], header.data_line + 1) if line.strip()
    ]
    if not series:
        raise unreadable(path, "a tsf file without series", "Bring lines after @data.", "data_empty")
    parsed = [_read_series(path, header, number, line) for number, line in series]
    names = [attributes.get("series_name", f"T{i + 1}") for i, (attributes, _) in enumerate(parsed)]
    lengths = np.array([len(values) for _, values in parsed])
    code = np.repeat(np.arange(len(parsed)), lengths)
    unique, codes = np.unique(np.array(names, dtype=object), return_inverse=True)
    frame = pd.DataFrame(
        {
            "unique_id": pd.Categorical.from_codes(codes[code], pd.Index(unique, dtype="str")),
            "ds": _times(path, header, series, parsed, lengths),
            "y": np.concatenate([values for _, values in parsed]),
        }
    )
    static = [name for name, _ in header.attributes if name not in ("series_name", "start_timestamp")]
    for name in static:
        frame[name] = pd.Series([attributes[name] for attributes, _ in parsed]).take(code).to_numpy()
    frame.attrs[ATTRS_KEY] = {"source": path.name, "notes": [], "frequency": header.frequency}
    return frame


def _bad_line(path: Path, number: int, message: str) -> DataError:
    return DataError(
        [Problem("tsf_syntax", f"{path.name}, line {number}", message, "See the format of the Monash archive.")]
    )


def _read_header(path: Path, lines: list[str]) -> _Header:
    attributes: list[tuple[str, str]] = []
    frequency = None
    for number, line in enumerate(lines, 1):
        words = line.strip().split()
        if not words or line.lstrip().startswith("#"):
            continue
        keyword = words[0].lower()
        if keyword == "@data":
            return _Header(tuple(attributes), frequency, number)
        if keyword == "@attribute":
            if len(words) != 3 or words[2].lower() not in ("string", "numeric", "date"):
                raise _bad_line(path, number, "must read @attribute name string|numeric|date.")
            attributes.append((words[1], words[2].lower()))
        elif keyword == "@frequency" and len(words) > 1:
            frequency = words[1].lower()
        elif not keyword.startswith("@"):
            raise _bad_line(path, number, "must start with @ or # before @data.")
    raise unreadable(path, "a tsf file without @data", "Bring a complete file.")


def _read_series(path: Path, header: _Header, number: int, line: str) -> tuple[dict[str, str], np.ndarray]:
    fields = line.strip().split(":", len(header.attributes))
    if len(fields) != len(header.attributes) + 1:
        raise _bad_line(
            path, number, f"must have {len(header.attributes)} attributes and the values, separated by colons."
        )
    attributes = {name: text.strip() for (name, _), text in zip(header.attributes, fields, strict=False)}
    texts = fields[-1].strip().rstrip(",").split(",")
    try:
        values = np.array([np.nan if text.strip() in ("?", "NaN", "") else float(text) for text in texts])
    except ValueError:
        raise _bad_line(path, number, "must hold numbers or ? after the last colon.") from None
    return attributes, values


def _times(
    path: Path,
    header: _Header,
    series: list[tuple[int, str]],
    parsed: list[tuple[dict[str, str], np.ndarray]],
    lengths: np.ndarray,
) -> np.ndarray:
    starts = [attributes.get("start_timestamp") for attributes, _ in parsed]
    if any(start is None for start in starts) or header.frequency is None:
        return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    times = parse_timestamps(pd.Series(starts, dtype="str"), "start_timestamp")
    if times.refusal is not None:
        raise DataError([times.refusal])
    if times.bad.any():
        raise _bad_line(path, series[int(np.argmax(times.bad))][0], "must give start_timestamp as 2010-07-01 00-30-00.")
    alias = _FREQUENCIES.get(header.frequency)
    if alias is None:
        message = f"names {header.frequency!r}; known are {', '.join(_FREQUENCIES)}."
        raise DataError([Problem("freq_unknown", f"{path.name}, @frequency", message, "Correct it.")])
    frequency = parse_frequency(alias)
    stamps = [frequency.range(int(start), 0, int(length)) for start, length in zip(times.stamps, lengths, strict=True)]
    return np.concatenate(stamps).view("M8[us]")
