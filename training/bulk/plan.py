"""What a bulk forecast is to do, part by part, and which parts are done.

Files beside the output say it, so that any process may go on with it.

    OUT/part-00000.parquet, OUT/region=north/part-00001.parquet, ...
    OUT/_manifest.json      every part with its hash: written last, when all is there
    OUT/_plan.json          until then: the parts to write, for which model and input
    OUT/_done/              until then: one note per finished part
    OUT/_regrouped/         until then: the input's rows by series, where the input has them apart
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from training.config import DataConfig
from training.data.parquet_folder import Piece

PLAN, MANIFEST, DONE, REGROUPED, LOCK = "_plan.json", "_manifest.json", "_done", "_regrouped", "_lock"
SCHEMA_VERSION = 1


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Document):
    """One file of the output.

    Attributes:
        name: Its path below the output folder.
        pieces: Rows of the input that it is made from.
    """

    name: str
    pieces: tuple[Piece, ...]

    @property
    def num_rows(self) -> int:
        """Rows of the input."""
        return sum(piece.stop - piece.start for piece in self.pieces)


class Plan(_Document):
    """The whole forecast.

    Attributes:
        schema_version: Layout of this document.
        model: Hash of the bundle's description, which holds those of its files.
        input_fingerprint: Of the input table.
        part_rows: Rows of the input per part, about.
        bundle: The bundle's directory.
        source: The table that the parts are read from: the input, or its rows regrouped.
        data: How it is read.
        parts: What to write.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    input_fingerprint: str
    part_rows: int
    bundle: str
    source: str
    data: DataConfig
    parts: tuple[Part, ...]


class Refusal(_Document):
    """A series that cannot be forecast, and why."""

    unique_id: str
    code: str
    message: str


class DonePart(_Document):
    """A finished part.

    Attributes:
        name: Its path below the output folder.
        num_series: Series forecast.
        num_rows: Rows of the file.
        num_bytes: Size of the file.
        sha256: Of the file.
        refused: Series that could not be forecast.
    """

    name: str
    num_series: int
    num_rows: int
    num_bytes: int
    sha256: str
    refused: tuple[Refusal, ...] = ()


class Manifest(_Document):
    """A finished forecast.

    Attributes:
        schema_version: Layout of this document.
        model: As in the plan.
        input_fingerprint: As in the plan.
        part_rows: As in the plan.
        horizon: Steps per series.
        columns: Of every part.
        num_series: Series forecast.
        num_rows: Rows of all parts.
        num_refused: Series that could not be forecast; their parts name them.
        parts: Every file.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    input_fingerprint: str
    part_rows: int
    horizon: int
    columns: tuple[str, ...]
    num_series: int = Field(ge=0)
    num_rows: int = Field(ge=0)
    num_refused: int = Field(ge=0)
    parts: tuple[DonePart, ...]


def write_document(path: Path, document: BaseModel) -> None:
    """Write a document; it appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    with unfinished.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(document.model_dump(mode="json", by_alias=True), indent=1))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(unfinished, path)


def read_plan(output: Path) -> Plan | None:
    """The plan of an unfinished forecast, if there is one."""
    document = _read(output / PLAN)
    return None if document is None else Plan.model_validate(document)


def read_manifest(output: Path) -> Manifest | None:
    """The manifest of a finished forecast, if it is one."""
    document = _read(output / MANIFEST)
    return None if document is None else Manifest.model_validate(document)


def note_path(output: Path, number: int) -> Path:
    """Where it is noted that a part is done."""
    return output / DONE / f"{number:05d}.json"


def read_done(output: Path, plan: Plan) -> dict[int, DonePart]:
    """Finished parts by number: noted, and there with the noted size."""
    found = {}
    for number, part in enumerate(plan.parts):
        document = _read(note_path(output, number))
        if document is None:
            continue
        done, path = DonePart.model_validate(document), output / part.name
        if path.is_file() and path.stat().st_size == done.num_bytes:
            found[number] = done
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
