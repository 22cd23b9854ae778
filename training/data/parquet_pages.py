"""What a parquet file unpacks to, found without unpacking it.

A page of some bytes may decompress to two gigabytes, and a run of some bytes may stand for a billion rows. The footer says how
much, but nothing forces it to be true; so the header of every page is read, which the reader obeys when it takes memory.
Format: https://parquet.apache.org/docs/file-format/ (footer, pages), and the Thrift compact protocol that headers are written in.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from training.data.dialect import too_large, unreadable
from training.data.unpacked import unpacked_limit_bytes

# PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, RLE_DICTIONARY: all that takes no more memory than pages and rows say.
PLAIN_ENCODINGS = frozenset({0, 2, 3, 4, 8})
VALUE_BYTES = 8
_MAX_NESTING = 8
_UNPACKED, _PACKED, _HEADERS_WITH_ENCODING = 2, 3, {5: 2, 7: 2, 8: 4}


def validate_unpacked(
    file: pq.ParquetFile, path: Path, num_columns: int, max_bytes: int | None = None, is_ours: bool = False
) -> None:
    """Refuse a file that takes too much memory, before any is taken.

    Args:
        file: Opened.
        path: Of the same file.
        num_columns: Columns that are read, of eight bytes a row.
        max_bytes: Most that pages and columns may take; None = `unpacked_limit_bytes`.
        is_ours: Whether only the encodings that we write are allowed: others may stand for far more than their pages.

    Raises:
        DataError: `file_too_large` beyond the limit, `file_unreadable` if the pages are not what the format says.
    """
    limit = unpacked_limit_bytes() if max_bytes is None else max_bytes
    if file.metadata.num_rows * num_columns * VALUE_BYTES > limit:
        raise too_large(path, f"{file.metadata.num_rows} rows", limit)
    num_bytes = 0
    try:
        for unpacked, encoding in _pages(file.metadata, path):
            num_bytes += unpacked
            if num_bytes > limit:
                raise too_large(path, f"pages of more than {num_bytes} bytes", limit)
            if is_ours and encoding is not None and encoding not in PLAIN_ENCODINGS:
                raise unreadable(path, f"in encoding {encoding}, which nothing here writes", "Write it again.")
    except (IndexError, KeyError, TypeError, ValueError) as error:
        actual = f"a damaged parquet file ({type(error).__name__} in a page header)"
        raise unreadable(path, actual, "Write it again.") from None


def _pages(metadata: pq.FileMetaData, path: Path) -> Iterator[tuple[int, int | None]]:
    """Unpacked bytes and encoding of every page."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for index in range(row_group.num_columns):
                column = row_group.column(index)
                starts = (column.data_page_offset, column.dictionary_page_offset)
                start = min(offset for offset in starts if offset)
                yield from _chunk_pages(content, start, start + column.total_compressed_size)


def _chunk_pages(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | None]]:
    if not 0 < start <= end <= len(content):
        raise ValueError(start)
    while start < end:
        header, start = _read_struct(content, start, 0)
        if header[_UNPACKED] < 0 or header[_PACKED] < 0:
            raise ValueError(header[_PACKED])
        nested = next(((header[field], at) for field, at in _HEADERS_WITH_ENCODING.items() if field in header), None)
        yield header[_UNPACKED], nested[0][nested[1]] if nested is not None else None
        start += header[_PACKED]


def _read_struct(content: mmap.mmap, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Fields by number, and where the next byte is."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := content[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _read_integer(content, at)
        fields[number], at = _read_value(content, at, head & 15, depth)
    return fields, at + 1


def _read_value(content: mmap.mmap, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_NESTING:
        raise ValueError(depth)
    if kind in (1, 2):  # a truth is in the type itself
        return kind == 1, at
    if kind == 3:
        return content[at], at + 1
    if kind in (4, 5, 6):
        return _read_integer(content, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:  # text or bytes, such as the least and greatest value
        length, at = _read_varint(content, at)
        return None, at + length
    if kind == 12:
        return _read_struct(content, at, depth + 1)
    raise ValueError(kind)  # page headers hold no lists, sets and maps


def _read_integer(content: mmap.mmap, at: int) -> tuple[int, int]:
    value, at = _read_varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def _read_varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError(shift)
