"""The gate for jobs and for the page: `gradcast models promote` in a subprocess, with the data of the job at hand."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.errors import ProblemError
from app.jobs.files import write_whole
from app.jobs.job_directory import JobDirectory
from app.jobs.subprocesses import PYTHON, Limits, run_limited
from app.schemas.jobs import PromotionBody
from app.settings import ServiceSettings
from training.tracking.tracker import CHAMPION

SECONDS = 600.0


def ask_gate(
    settings: ServiceSettings,
    environment: Mapping[str, str],
    name: str,
    version: int,
    data: Path | None = None,
    override: str | None = None,
) -> PromotionBody:
    """Ask the gate to make a version champion.

    Args:
        settings: Policy and limits.
        environment: Names the tracking store.
        name: Registered name.
        version: The version.
        data: The file it was trained on, to score the champion on it too; None = not at hand.
        override: Why to promote it against the rules.

    Returns:
        The answer, also if it is no.

    Raises:
        ProblemError: `promotion_refused` or `internal_error` if there was no answer.
    """
    command = [*PYTHON, "-m", "training", "models", "promote", "--json", "--metric", settings.promotion_metric]
    command += ["--min-improvement", str(settings.promotion_min_improvement)]
    command += [f"--data={data}"] if data is not None else []
    command += [f"--override={override}"] if override is not None else []
    command += ["--", name, str(version), CHAMPION]
    limits = Limits(SECONDS, settings.job_memory_bytes, grace_seconds=0.0)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        run_limited(command, limits, output, errors, environment=environment)
        output.seek(0)
        errors.seek(0)
        answer, words = _parse(output.read()), errors.read().decode("utf-8", errors="replace").strip()
    if answer is None:
        detail = words.rpartition("gradcast models: ")[2].splitlines()[:1] or ["The gate gave no answer."]
        raise ProblemError("promotion_refused", detail[0])
    return PromotionBody.model_validate(answer)


def promoting(
    settings: ServiceSettings, environment: Mapping[str, str], find_data: Callable[[str], Path]
) -> Callable[[JobDirectory], None]:
    """What a worker does with a job that has trained: ask the gate if the job wants it, and keep the answer."""

    def promote(job: JobDirectory) -> None:
        model = (job.result() or {}).get("model")
        if not job.spec.promote or model is None:
            return
        try:
            answer = ask_gate(settings, environment, model["name"], model["version"], find_data(job.spec.dataset_id))
        except ProblemError as error:
            answer = PromotionBody(
                is_allowed=False, is_promoted=False, reasons=[error.detail], compared_by=None,
                version=model["version"], champion=None, override=None,
            )  # fmt: skip
        write_whole(job.path / "promotion.json", answer.model_dump_json(indent=1))

    return promote


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
