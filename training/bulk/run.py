"""A bulk forecast from the input's files to the manifest, and on from wherever an earlier one ended."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock

from models.bundle import Bundle, manifest_hash
from training.bulk.crew import Answer, Crew
from training.bulk.parts import column_names
from training.bulk.plan import (
    DONE,
    LOCK,
    MANIFEST,
    PLAN,
    REGROUPED,
    DonePart,
    Manifest,
    Part,
    Plan,
    read_done,
    read_manifest,
    read_plan,
    write_document,
)  # fmt: skip
from training.config import DataConfig
from training.data.parquet_folder import ParquetTable, open_table
from training.data.regrouping import MAX_BUCKETS, regroup
from training.data.series_order import find_cuts
from training.errors import ConfigurationError, Problem
from training.file_lock import take_lock
from training.progress import CountProgress

PART_ROWS = 2_000_000
# A killed forecast's processes end when they notice that nobody listens.
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class BulkRequest:
    """What is to be forecast.

    Attributes:
        input: Parquet file, or folder of them.
        output: Folder for the forecasts.
        data: How the input is read.
        part_rows: Rows of the input per file of the output, about.
    """

    input: Path
    output: Path
    data: DataConfig
    part_rows: int = PART_ROWS


def forecast_in_bulk(bundle: Bundle, request: BulkRequest, crew: Crew, progress: CountProgress) -> Manifest:
    """Forecast every series of a table from its end, into a folder of parquet files.

    Started again after it ended early, it goes on with the parts that are missing.

    Args:
        bundle: The model.
        request: Input, output and how.
        crew: The processes that do it.
        progress: What the user sees.

    Returns:
        What was written, as in the output folder.

    Raises:
        DataError: If the input cannot be read.
        ConfigurationError: If the folder holds something else, or another process is at it.
    """
    output = request.output
    table = open_table(request.input, request.data)
    table.require_long()
    expected = (_model(bundle), table.fingerprint, request.part_rows)
    _validate_empty(output)
    output.mkdir(parents=True, exist_ok=True)
    lock = take_lock(output / LOCK, PATIENCE_SECONDS)
    if lock is None:
        message = f"must be free, but another process writes to {output}."
        raise ConfigurationError([Problem("output_busy", "--output", message, "Wait for it, or choose another folder.")])
    try:
        finished = read_manifest(output)
        if finished is not None:
            _validate_same(output, (finished.model, finished.input_fingerprint, finished.part_rows), expected)
            return finished
        crew.join(output, lock)
        plan = read_plan(output)
        if plan is None:
            plan = _plan(bundle, table, request, progress)
            write_document(output / PLAN, plan)
        _validate_same(output, (plan.model, plan.input_fingerprint, plan.part_rows), expected)
        done = _write_parts(output, plan, crew, progress)
        return _finish(output, plan, bundle, done)
    finally:
        os.close(lock)


def _model(bundle: Bundle) -> str:
    return manifest_hash(bundle.manifest.model_dump(mode="json"))


def _validate_empty(output: Path) -> None:
    """A folder that is not ours, or a file, is left alone."""
    if output.is_dir() and not any((output / name).exists() for name in (PLAN, MANIFEST, LOCK)):
        foreign = next(iter(sorted(output.iterdir())), None)
        if foreign is not None:
            message = f"must be empty or hold an unfinished forecast, but holds {foreign.name} instead."
            raise ConfigurationError([Problem("output_exists", f"--output {output}", message, "Choose another folder.")])
    elif output.exists() and not output.is_dir():
        message = "must be a folder, but is a file instead."
        raise ConfigurationError([Problem("output_exists", f"--output {output}", message, "Choose another name.")])


def _validate_same(output: Path, have: Sequence[object], expected: Sequence[object]) -> None:
    names = ("model", "input", "--part-rows")
    others = [name for name, one, other in zip(names, have, expected, strict=True) if one != other]
    if others:
        message = f"must hold a forecast of this model and input, but was begun with another {' and another '.join(others)}."
        remedy = "Choose another folder, or remove this one."
        raise ConfigurationError([Problem("output_exists", f"--output {output}", message, remedy)])


def _plan(bundle: Bundle, table: ParquetTable, request: BulkRequest, progress: CountProgress) -> Plan:
    """Cut the table between series; bring their rows together first where they lie apart."""
    total, fingerprint = int(table.ends[-1]), table.fingerprint
    progress.start("look for series", total, "rows")
    cuts = find_cuts(table, request.part_rows, progress.advance)
    progress.stop()
    if cuts is None:
        folder = request.output / REGROUPED
        num_buckets = min(max(math.ceil(total / request.part_rows), 1), MAX_BUCKETS)
        progress.start("bring series together", total, "rows")
        regroup(table, folder, num_buckets, progress.advance)
        progress.stop()
        table = open_table(folder, table.said_config)
        cuts = (0, *table.ends.tolist())
    parts = []
    for number, (start, stop) in enumerate(pairwise(cuts)):
        pieces = table.pieces(start, stop)
        folder_name = table.partition(pieces[0].file)
        parts.append(Part(name=f"{folder_name}/part-{number:05d}.parquet".lstrip("/"), pieces=pieces))
    return Plan(
        model=_model(bundle),
        input_fingerprint=fingerprint,
        part_rows=request.part_rows,
        bundle=str(bundle.directory.resolve()),
        source=str(table.path.resolve()),
        data=table.config,
        parts=tuple(parts),
    )


def _write_parts(output: Path, plan: Plan, crew: Crew, progress: CountProgress) -> dict[int, DonePart]:
    done = read_done(output, plan)
    missing = [number for number in range(len(plan.parts)) if number not in done]
    rows = {part.name: part.num_rows for part in plan.parts}
    progress.start("forecast", sum(rows.values()), "rows", sum(rows[part.name] for part in done.values()))
    guard = Lock()

    def on_done(part: Answer) -> None:
        with guard:
            progress.advance(rows[part["name"]], series=part["num_series"])

    try:
        crew.write(missing, on_done)
    finally:
        progress.stop()
    return read_done(output, plan)


def _finish(output: Path, plan: Plan, bundle: Bundle, done: dict[int, DonePart]) -> Manifest:
    parts = tuple(done[number] for number in range(len(plan.parts)))
    manifest = Manifest(
        model=plan.model,
        input_fingerprint=plan.input_fingerprint,
        part_rows=plan.part_rows,
        horizon=bundle.manifest.network.horizon,
        columns=column_names(bundle),
        num_series=sum(part.num_series for part in parts),
        num_rows=sum(part.num_rows for part in parts),
        num_refused=sum(len(part.refused) for part in parts),
        parts=parts,
    )
    write_document(output / MANIFEST, manifest)
    (output / PLAN).unlink()
    for folder in (DONE, REGROUPED):
        shutil.rmtree(output / folder, ignore_errors=True)
    for unfinished in output.rglob("_*.unfinished"):
        unfinished.unlink()
    return manifest
