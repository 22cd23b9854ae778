"""What the instruments saw: quantities over steps, bounded in memory, for the rules, the figures and `readings.parquet`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX_POINTS = 2000
SCHEMA = pa.schema([("step", pa.int64()), ("quantity", pa.string()), ("name", pa.string()), ("value", pa.float64())])


@dataclass
class _Series:
    """One quantity; each thins itself out on its own, so that one measured rarely keeps all of its points."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(self, step: int, value: float) -> None:
        if self.steps and self.steps[-1] == step:
            self.values[-1] = value
            return
        self.seen += 1
        if (self.seen - 1) % self.stride:
            return
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) > MAX_POINTS:
            self.steps, self.values = self.steps[::2], self.values[::2]
            self.stride *= 2


class Readings:
    """Named numbers over steps.

    Beyond `MAX_POINTS` points of a quantity every second one is dropped, and from then on only every second one is
    kept, so that a run of any length keeps its whole course.
    """

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Keep values measured at a step; a second value of the same quantity and step replaces the first."""
        for name, value in values.items():
            self._series.setdefault(name, _Series()).add(step, value)

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Every quantity that was measured and begins with the prefix, in order of appearance."""
        return tuple(name for name in self._series if name.startswith(prefix))

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one quantity; two empty lists if it was never measured."""
        series = self._series.get(name, _Series())
        return list(series.steps), list(series.values)

    def last(self, name: str) -> float | None:
        """The latest value of one quantity; None if it was never measured."""
        series = self._series.get(name)
        return series.values[-1] if series else None

    def curve(self, prefix: str, step: int | None = None) -> dict[int, float]:
        """A quantity over lag at one step, from the names `<prefix>@<lag>`.

        Args:
            prefix: Such as `jacobian/lstm.0`.
            step: When it was measured; None = the last time.

        Returns:
            Lag to value, lags increasing; empty if it was not measured then.
        """
        found: dict[int, float] = {}
        for name in self.names(f"{prefix}@"):
            series = self._series[name]
            if step is None:
                found[int(name.rpartition("@")[2])] = series.values[-1]
            elif step in series.steps:
                found[int(name.rpartition("@")[2])] = series.values[series.steps.index(step)]
        return dict(sorted(found.items()))

    def to_dict(self) -> dict[str, Any]:
        """A JSON document for the checkpoint."""
        return {
            name: [series.steps, series.values, series.stride, series.seen] for name, series in self._series.items()
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Readings:
        """The readings that `to_dict` wrote."""
        readings = cls()
        readings._series = {
            name: _Series(list(steps), list(values), stride, seen)
            for name, (steps, values, stride, seen) in document.items()
        }
        return readings

    def write_parquet(self, path: Path) -> None:
        """Write a long table: step, quantity (the part before `/`), name (the part after), value."""
        rows = [
            (step, *name.partition("/")[::2], value)
            for name, series in self._series.items()
            for step, value in zip(series.steps, series.values, strict=True)
        ]
        columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
        arrays = [pa.array(column, type=kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), path, compression="zstd")

    @classmethod
    def read_parquet(cls, path: Path) -> Readings:
        """The readings that `write_parquet` wrote, thinned no further."""
        readings = cls()
        table = pq.read_table(path, schema=SCHEMA).to_pydict()
        for step, quantity, name, value in zip(*(table[kind.name] for kind in SCHEMA), strict=True):
            series = readings._series.setdefault(f"{quantity}/{name}" if name else quantity, _Series())
            series.steps.append(step)
            series.values.append(value)
        return readings
