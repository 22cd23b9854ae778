"""What kind of file this is, found from its content: names lie (`.xls` that is text, `.csv` with semicolons)."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from training.data.unpacked import unpacked_limit_bytes
from training.errors import DataError, Problem

Container = Literal["parquet", "tsf", "text"]
# Texts that mean a missing number. "None" is not among them: it may be a category.
MISSING_TEXTS = ("", "NA", "NaN", "nan", "N/A", "n/a", "#N/A", "NULL", "null", "<NA>", "-nan")

_SNIFFED_BYTES = 1 << 16
_SAMPLE_LINES = 200
_DELIMITERS = (",", ";", "\t", "|")
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"ARROW1": "a Feather file",
    b"SQLite": "a SQLite database",
    b"%PDF": "a PDF document",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"BZh": "a bzip2 archive",
    b"\xfd7zX": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}


@dataclass(frozen=True)
class Dialect:
    """How a delimited text file is written.

    Attributes:
        encoding: Python's name of it; `utf-8-sig` where a byte order mark comes first.
        delimiter: Between fields.
        decimal: Decimal mark.
        header: Column names, stripped.
        sample: First rows, as text fields.
        header_line: Line of the file (1 is the first) that the header ends on.
        has_overlong_rows: Whether rows have more fields than the header, all of them empty.
    """

    encoding: str
    delimiter: str
    decimal: Literal[".", ","]
    header: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    header_line: int
    has_overlong_rows: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about the file."""
        notes = []
        if self.encoding == "utf-8-sig":
            notes.append("the file starts with a byte order mark, which is no part of the first column's name")
        elif self.encoding != "utf-8":
            notes.append(f"the file is read as {self.encoding}, for it is not UTF-8")
        if self.delimiter != ",":
            notes.append(f"fields are separated by {_DELIMITER_NAMES[self.delimiter]}")
        if self.decimal == ",":
            notes.append("numbers are written with a decimal comma")
        if self.has_overlong_rows:
            notes.append("rows have empty fields beyond the header; they are ignored")
        return tuple(notes)


_DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def unreadable(path: Path, actual: str, remedy: str, code: str = "file_unreadable") -> DataError:
    """The error of a file that cannot be read."""
    message = f"must be CSV, CSV.gz, parquet or .tsf, but is {actual} instead."
    return DataError([Problem(code, str(path), message, remedy)])


def too_large(path: Path, what: str, limit: int) -> DataError:
    """The error of a file that unpacks to more than there is memory."""
    remedy = "Bring fewer rows or columns, or a machine with more memory."
    return unreadable(path, f"{what}, which unpacked take more than {limit} bytes", remedy, "file_too_large")


class _Bounded(io.RawIOBase):
    """What a gzip file unpacks to, and no more of it than the limit."""

    def __init__(self, stream: gzip.GzipFile, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._limit = unpacked_limit_bytes()
        self._num_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read1(len(buffer))
        self._num_bytes += len(content)
        if self._num_bytes > self._limit:
            raise too_large(self._path, "a gzip file of texts", self._limit)
        buffer[: len(content)] = content
        return len(content)


class _WithHeader(io.TextIOBase):
    """A text file whose header is replaced by another."""

    def __init__(self, stream: io.TextIOBase, header: str, skipped_lines: int) -> None:
        self._stream = stream
        self._header = header
        for _ in range(skipped_lines):
            stream.readline()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        header, self._header = self._header, ""
        return header or self._stream.read(-1 if size is None else size)


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file, decompressed if it is gzip.

    Raises:
        DataError: If it is absent, no file or damaged.
    """
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if is_gzip:
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield io.BufferedReader(_Bounded(stream, path), _SNIFFED_BYTES)
            else:
                yield raw
    except FileNotFoundError:
        raise unreadable(path, "absent", "Check data.path.", "file_not_found") from None
    except IsADirectoryError:
        raise unreadable(path, "a directory", "Name one file.") from None
    except PermissionError:
        raise unreadable(path, "not readable for this user", "Change its permissions.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise unreadable(path, "a damaged gzip file", "Compress it again.") from None


def detect_container(path: Path) -> Container:
    """Look at the first bytes of a file.

    Raises:
        DataError: If the content is something else than text, parquet or tsf.
    """
    with open_bytes(path) as stream:
        head = stream.read(4096)
    if not head:
        raise unreadable(path, "empty", "Bring a file with a header and rows.", "data_empty")
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise unreadable(path, name, "Save the table as CSV or parquet.")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if text.startswith((b"{", b"[", b"<")):
        name = "HTML or XML" if text.startswith(b"<") else "JSON"
        raise unreadable(path, name, "Save the table as CSV or parquet.")
    if b"\x00" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise unreadable(path, "binary", "Save the table as CSV or parquet.")
    if path.name.lower().removesuffix(".gz").endswith(".tsf") or re.search(
        rb"^@(relation|attribute|frequency)\b", head, re.MULTILINE
    ):
        return "tsf"
    return "text"


def find_encoding(path: Path) -> str:
    """UTF-8 with or without mark, UTF-16, or else Windows-1252, by trying every byte of the file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_bytes(path) as stream:
        head = stream.read(_SNIFFED_BYTES)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        try:
            decoder.decode(head)
            while block := stream.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252" if not re.search(rb"[\x81\x8d\x8f\x90\x9d]", head) else "latin-1"
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8"


def read_dialect(path: Path) -> Dialect:
    """Find out how a text file is written, from its first lines.

    Raises:
        DataError: If it has no header or no rows.
    """
    encoding = find_encoding(path)
    with open_bytes(path) as stream:
        text = io.TextIOWrapper(stream, encoding, errors="replace", newline="")
        lines = [line for line, _ in zip(text, range(_SAMPLE_LINES), strict=False)]
        text.detach()
    delimiter = _find_delimiter(lines)
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        numbered = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except csv.Error as error:
        raise unreadable(path, f"no table ({error})", "Save the table as CSV or parquet.") from None
    rows = [row for _, row in numbered]
    if not rows:
        raise unreadable(path, "blank", "Bring a file with a header and rows.", "data_empty")
    header, sample = tuple(field.strip() for field in rows[0]), tuple(map(tuple, rows[1:]))
    if not sample:
        raise unreadable(path, "a header without rows", "Bring rows.", "data_empty")
    if sum(_is_number(field) for field in header) * 2 > len(header):
        raise unreadable(
            path, "without a header: its first line holds numbers", "Add a line with column names.", "header_missing"
        )
    overlong = [
        row for row in sample if len(row) > len(header) and not any(field.strip() for field in row[len(header) :])
    ]
    return Dialect(
        encoding, delimiter, _find_decimal(sample, delimiter), header, sample, numbered[0][0], bool(overlong)
    )


@contextmanager
def open_table(path: Path, dialect: Dialect, names: Sequence[str]) -> Iterator[io.TextIOBase]:
    """Open a text file with other column names than it has: rows may then be longer than its own header."""
    with open_bytes(path) as stream:
        text = io.TextIOWrapper(stream, dialect.encoding, errors="replace", newline="")
        try:
            yield _WithHeader(text, dialect.delimiter.join(names) + "\n", dialect.header_line)
        finally:
            text.detach()


def _find_delimiter(lines: list[str]) -> str:
    """The character that cuts the header and most rows into equally many fields, at least two."""
    best, best_score = ",", 0.0
    for delimiter in _DELIMITERS:
        try:
            counts = [len(row) for row in csv.reader(lines[:50], delimiter=delimiter) if row]
        except csv.Error:  # fields beyond all measure: cut by this character it is no table
            continue
        if not counts or counts[0] < 2:
            continue
        common, number = Counter(counts).most_common(1)[0]
        # Rows may be one field longer than the header, where every row ends in a delimiter.
        score = number / len(counts) * (1.0 if abs(common - counts[0]) <= 1 else 0.1) + counts[0] / 1000
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _find_decimal(sample: tuple[tuple[str, ...], ...], delimiter: str) -> Literal[".", ","]:
    if delimiter == ",":
        return "."
    fields = [field.strip() for row in sample for field in row]
    comma = sum(bool(re.fullmatch(r"[+-]?\d+,\d+", field)) for field in fields)
    point = sum(bool(re.fullmatch(r"[+-]?\d+\.\d+", field)) for field in fields)
    return "," if comma > point else "."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
