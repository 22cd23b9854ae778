"""A job as server-sent events: what is there when somebody begins to watch, then everything new, until the job ends.

event: progress   {"points": [{"step", "loss", "grad_norm", "reach", "val_loss", ...}], "reset": N | null}
event: view       the gradients as `GET /runs/{run_id}/gradients` answers, at every check
event: job        the job's summary, when its state or its place in the queue changes
event: end        nothing more will come
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from app.jobs.job_directory import FINAL_STATES
from app.jobs.progress import PROGRESS, read_lines, read_view
from app.schemas.jobs import JobSummary

POLL_SECONDS = 0.4
KEEP_ALIVE_SECONDS = 15.0


async def watch(
    summarize: Callable[[], JobSummary], run: Path, offset: int, is_leaving: Callable[[], bool]
) -> AsyncIterator[str]:
    """Events of one job.

    Args:
        summarize: The job in a line, as the watcher may see it.
        run: Directory of its run.
        offset: Bytes of its progress that the watcher has seen.
        is_leaving: Whether the service shuts down; the watcher comes back by itself.

    Yields:
        Texts of the event stream.
    """
    shown, stamp, spoke_at = "", 0, time.monotonic()
    while not is_leaving():
        job = await asyncio.to_thread(summarize)
        lines, offset = await asyncio.to_thread(read_lines, run / PROGRESS, offset)
        view, stamp = await asyncio.to_thread(read_view, run, stamp)
        texts = []
        if lines:
            texts.append(_event("progress", progress_points(lines), offset))
        if view is not None:
            texts.append(_event("view", view))
        is_over = job.state in FINAL_STATES and not lines
        state = f"{job.state} {job.num_attempts} {job.place} {is_over}"
        if state != shown:
            shown = state
            texts.append(_event("job", job.model_dump()))
        if is_over:
            texts.append(_event("end", {}))
        if texts or time.monotonic() - spoke_at > KEEP_ALIVE_SECONDS:
            spoke_at = time.monotonic()
            yield "".join(texts) or ": still here\n\n"
        if is_over:
            return
        await asyncio.sleep(0 if lines else POLL_SECONDS)


def progress_points(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Lines of a progress file as points of charts.

    Returns:
        The points, one per step, and the step after which all earlier points are to be forgotten: a fit that goes on from a
        checkpoint repeats what came after it.
    """
    points: dict[int, dict[str, Any]] = {}
    reset = None
    for line in lines:
        if "start" in line:
            reset = int(line["start"]) if reset is None else min(reset, int(line["start"]))
            points = {step: point for step, point in points.items() if step <= line["start"]}
        elif isinstance(line.get("step"), int):
            points.setdefault(line["step"], {}).update(line)
    return {"points": list(points.values()), "reset": reset}


def _event(name: str, data: Any, identity: int | None = None) -> str:
    line = "" if identity is None else f"id: {identity}\n"
    return f"{line}event: {name}\ndata: {json.dumps(data)}\n\n"
