"""Arrays that grow on disk, part by part, and are mapped into memory when they are complete.

STORE/progress.json     while it grows: what every finished part added, and how long each file was then
STORE/store.json        when it is complete: what the arrays mean, and the sha256 of every file
STORE/values, ...       one file per array: its numbers, one behind the other
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORE, PROGRESS = "store.json", "progress.json"
# Of every array, without the number of rows: that is the file's length.
DTYPES: dict[str, type[np.generic]] = {
    "values": np.float32,
    "observed": np.bool_,
    "filled": np.bool_,
    "covariates": np.float32,
    "static": np.float32,
    "future": np.float32,
    "num_future": np.int64,
    "lengths": np.int64,
    "starts": np.int64,
}
NAMES = "names.jsonl"


class GrowingFiles:
    """The files of a store that is not complete.

    Args:
        folder: The store; made if it is absent. What a killed process left behind the last finished part is cut off.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        found = read_json(folder / PROGRESS)
        self.parts: list[dict[str, Any]] = [] if found is None else found["parts"]
        sizes = {} if found is None else found["sizes"]
        for name in (*DTYPES, NAMES):
            with (folder / name).open("ab") as stream:
                stream.truncate(sizes.get(name, 0))

    def append(self, names: tuple[str, ...], arrays: Mapping[str, NDArray[Any]], part: dict[str, Any]) -> None:
        """Add a part; it is there when this returns, or as if it had never been begun.

        Args:
            names: Series.
            arrays: By name, as in `DTYPES`.
            part: What else is to be known of it.
        """
        text = "".join(json.dumps(name) + "\n" for name in names)
        contents = {NAMES: text.encode()} | {name: np.ascontiguousarray(array).data for name, array in arrays.items()}
        sizes = {name: (self.folder / name).stat().st_size for name in (*DTYPES, NAMES)}
        for name, content in contents.items():
            with (self.folder / name).open("ab") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                sizes[name] = stream.tell()
        self.parts.append(part)
        write_json(self.folder / PROGRESS, {"parts": self.parts, "sizes": sizes})

    def finish(self, meaning: Mapping[str, Any]) -> None:
        """Write down what the arrays mean and the hash of every file."""
        hashes = {name: file_hash(self.folder / name) for name in (*DTYPES, NAMES)}
        write_json(self.folder / STORE, dict(meaning) | {"sha256": hashes})
        (self.folder / PROGRESS).unlink()


def map_array(folder: Path, name: str, *columns: int, writable: bool = False) -> NDArray[Any]:
    """An array of a store, mapped: pages are read when they are used, and given up when memory is short.

    Args:
        folder: The store.
        name: As in `DTYPES`.
        columns: Shape behind the rows.
        writable: Whether to change the file; otherwise what is written stays with this process.
    """
    dtype = np.dtype(DTYPES[name])
    width = int(np.prod(columns, dtype=np.int64))
    num_rows = (folder / name).stat().st_size // (dtype.itemsize * width) if width else 0
    if not num_rows:
        return np.zeros((num_rows, *columns), dtype)
    return np.memmap(folder / name, dtype, "r+" if writable else "c", shape=(num_rows, *columns))


def read_names(folder: Path) -> tuple[str, ...]:
    """The series of a store."""
    with (folder / NAMES).open(encoding="utf-8") as stream:
        return tuple(json.loads(line) for line in stream)


def is_intact(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Whether every file of a store is what was written."""
    return all((folder / name).is_file() and file_hash(folder / name) == hashes.get(name) for name in (*DTYPES, NAMES))


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """A document, None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(path: Path, document: Any) -> None:
    """Write a document; it appears complete or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    with unfinished.open("w", encoding="utf-8") as stream:
        json.dump(document, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(unfinished, path)
