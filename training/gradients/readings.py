"""What the instruments saw: step by quantity, bounded in memory, for the rules, the figures and `readings.parquet`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX_STEPS = 4000


class Readings:
    """Named numbers over steps.

    Beyond `MAX_STEPS` logged steps every second one is dropped, and from then on only every second one is kept, so
    that a run of any length keeps its whole course.
    """

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, float]] = {}
        self._stride = 1
        self._seen = 0

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Keep values measured at a step; values of the same step are joined."""
        if step in self._rows:
            self._rows[step].update(values)
            return
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        self._rows[step] = dict(values)
        if len(self._rows) > MAX_STEPS:
            self._rows = dict(list(self._rows.items())[::2])
            self._stride *= 2

    def names(self) -> tuple[str, ...]:
        """Every quantity that was measured, in order of appearance."""
        return tuple(dict.fromkeys(name for row in self._rows.values() for name in row))

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one quantity."""
        points = [(step, row[name]) for step, row in self._rows.items() if name in row]
        return [step for step, _ in points], [value for _, value in points]

    def to_dict(self) -> dict[str, Any]:
        """A JSON document for the checkpoint."""
        rows = [[step, row] for step, row in self._rows.items()]
        return {"rows": rows, "stride": self._stride, "seen": self._seen}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Readings:
        """The readings that `to_dict` wrote."""
        readings = cls()
        readings._rows = {int(step): dict(row) for step, row in document["rows"]}
        readings._stride, readings._seen = document["stride"], document["seen"]
        return readings

    def write_parquet(self, path: Path) -> None:
        """Write a long table: step, quantity (the part before `/`), name (the part after), value."""
        rows = [
            (step, *name.partition("/")[::2], value) for step, row in self._rows.items() for name, value in row.items()
        ]
        columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
        schema = pa.schema(
            [("step", pa.int64()), ("quantity", pa.string()), ("name", pa.string()), ("value", pa.float64())]
        )
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")
