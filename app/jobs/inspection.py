"""Audits an uploaded file as `gradcast validate` does, and keeps its end for the page. A process of its own.

    python -m app.jobs.inspection FILE COLUMNS.json OUTPUT.json MEMORY_BYTES

A hostile file costs this process its time or its memory, and the service nothing. What would unpack to more than that memory is
refused before.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

from training.config import DataConfig, load_config
from training.data.audit import Audit, audit_file
from training.data.panel import Panel, load_panel
from training.data.unpacked import lower_unpacked_limit

MAX_SERIES, MAX_STEPS = 24, 600
MAX_PROBLEMS = 50


def inspect(path: Path, config: DataConfig) -> dict[str, Any]:
    """Audit a file; where its columns have other names than asked for, with those it suggests.

    Args:
        path: The file.
        config: Columns, frequency and format.

    Returns:
        The audit, the column settings it holds with, and the last steps of the first series.
    """
    audit = audit_file(path, config)
    if not audit.is_usable and (suggested := _suggested(audit, config)) is not None:
        second = audit_file(path, suggested)
        if second.is_usable:
            audit, config = second, suggested
    document = audit.to_dict()
    problems = document.pop("problems")
    counts = {severity: sum(problem["severity"] == severity for problem in problems) for severity in ("error", "warning", "info")}
    preview = _preview(load_panel(config.model_copy(update={"path": str(path)}))) if audit.is_usable else None
    return {
        "is_usable": audit.is_usable,
        "summary": document["summary"],
        "counts": counts,
        "problems": [_without_directory(problem, path) for problem in problems[:MAX_PROBLEMS]],
        "columns": config.model_dump(mode="json", exclude_defaults=True),
        "preview": preview,
    }  # fmt: skip


def _suggested(audit: Audit, config: DataConfig) -> DataConfig | None:
    fix = next((problem.fix for problem in audit.problems if problem.code == "columns_suggested"), "")
    settings = [word for word in shlex.split(fix) if word != "--set"]
    if not settings:
        return None
    found = load_config(None, settings).data.model_dump(exclude_defaults=True)
    return config.model_copy(update=found)


def _without_directory(problem: dict[str, Any], path: Path) -> dict[str, Any]:
    return {key: value.replace(str(path), path.name) if isinstance(value, str) else value for key, value in problem.items()}


def _preview(panel: Panel) -> dict[str, Any]:
    """The last steps of the first series, and every name up to a thousand."""
    shown = range(min(len(panel.ids), MAX_SERIES))
    return {
        "freq": panel.freq,
        "season_length": panel.season_length,
        "time_kind": panel.time_kind,
        "target": panel.target,
        "num_series": len(panel.ids),
        "series": [_series(panel, index) for index in shown],
    }


def _series(panel: Panel, index: int) -> dict[str, Any]:
    start, stop = int(panel.offsets[index]), int(panel.offsets[index + 1])
    begin = max(start, stop - MAX_STEPS)
    times = panel.timestamps(index, begin - start, stop - start)
    values = [
        float(value) if seen and math.isfinite(value) else None
        for value, seen in zip(panel.values[begin:stop], panel.observed[begin:stop], strict=True)
    ]
    return {"unique_id": panel.ids[index], "ds": [_time(time) for time in times], "y": values, "num_steps": stop - start}


def _time(time: Any) -> str | int:
    return time.isoformat() if hasattr(time, "isoformat") else int(time)


def main(arguments: list[str]) -> None:
    """Inspect, and write what was found."""
    path, columns, output = (Path(word) for word in arguments[:3])
    lower_unpacked_limit(int(arguments[3]))
    config = DataConfig.model_validate_json(columns.read_bytes())
    output.write_text(json.dumps(inspect(path, config)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
