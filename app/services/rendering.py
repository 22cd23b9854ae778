"""An answer as the JSON of `POST /forecast`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.services.answer import Answer
from app.services.levels import Levels
from app.services.loading import Resolved
from app.services.series_error import SeriesError


def render_json(answer: Answer) -> bytes:
    """The body of the response."""
    levels, values = answer.levels, answer.values
    forecasts = [
        _render_problem(unique_id, outcome)
        if isinstance(outcome, SeriesError)
        else {
            "unique_id": unique_id,
            "ds": answer.stamps_text(outcome),
            **_render_values([rows[row] for rows in values], levels),
            "warnings": [{"code": code, "message": message} for code, message in outcome.warnings.items()],
            "error": None,
        }
        for unique_id, outcome, row in answer.rows()
    ]
    document = {
        "model": render_model(answer.found),
        "status": "partial" if answer.is_partial else "completed",
        "forecasts": forecasts,
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def render_model(found: Resolved) -> dict[str, Any]:
    """Which model answered."""
    model = found.model
    return {
        "name": model.version.name,
        "version": model.version.version,
        "alias": found.alias,
        "run_id": model.version.run_id,
        "verdict": model.verdict,
        "reach_steps": model.reach_steps,
        "trained_until": model.manifest.trained_until,
    }


def _render_values(values: Sequence[NDArray[np.float32]], levels: Levels) -> dict[str, Any]:
    # A row of float32 is written with the digits that float32 has, not with those of its float64 neighbour.
    named = list(zip(levels.keys, values, strict=True))
    return {
        "mean": named[0][1],
        "intervals": dict(named[1 : 1 + levels.num_intervals]),
        "quantiles": dict(named[1 + levels.num_intervals :]),
    }


def _render_problem(unique_id: str, problem: SeriesError) -> dict[str, Any]:
    return {
        "unique_id": unique_id,
        "ds": [],
        "mean": [],
        "intervals": {},
        "quantiles": {},
        "warnings": [],
        "error": {"code": problem.code, "message": problem.message, "path": problem.path},
    }
