"""Fetches what a recorded run left about its gradients, so that it can be reviewed on another machine."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from training.errors import ModelNotFoundError
from training.tracking.environment import normalize_uri, open_client, translated_errors
from training.tracking.registry import resolve

_RUN_ID = re.compile(r"[0-9a-f]{32}")
MODEL_PREFIX = "models:/"
# What a review is made of; a run without them was not made by this program, or has not ended.
CONFIG, FOLDER = "config.yaml", "gradients"
VIEW = "gradients/view.json"
FILES = ("readings.parquet", "evidence.json", "verdict.json", "view.json")


def is_run_reference(reference: str) -> bool:
    """Whether a text means a recorded run: an MLflow run id, or `models:/name@alias`."""
    return reference.startswith(MODEL_PREFIX) or _RUN_ID.fullmatch(reference) is not None


def download_run(uri: str, reference: str, cache_directory: Path) -> Path:
    """The review files of a recorded run as a local run directory, fetched anew: a run that goes on changes them.

    Args:
        uri: The store.
        reference: An MLflow run id, or a registered model as `models:/name@alias` or `models:/name/version`.
        cache_directory: Where the directory is put.

    Raises:
        ModelNotFoundError: If there is no such run or model, or the run left no review files.
        TrackingError: If the store does not answer.
    """
    uri = normalize_uri(uri)
    run_id = (
        resolve(uri, reference.removeprefix(MODEL_PREFIX)).run_id if reference.startswith(MODEL_PREFIX) else reference
    )
    what = f"run {run_id}"
    target = cache_directory / "runs" / run_id
    with tempfile.TemporaryDirectory(prefix="gradcast-") as folder, translated_errors(uri, what):
        client = open_client(uri)
        present = {file.path for part in ("", FOLDER) for file in client.list_artifacts(run_id, part)}
        wanted = [CONFIG, *(f"{FOLDER}/{name}" for name in FILES)]
        if CONFIG not in present or f"{FOLDER}/verdict.json" not in present:
            remedy = "A run leaves them when it ends; review a running one by its directory."
            raise ModelNotFoundError(what, f"a run with {CONFIG} and {FOLDER}/verdict.json", "one without", remedy)
        for name in wanted:
            if name in present:
                downloaded = Path(client.download_artifacts(run_id, name, folder))
                place = target / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(downloaded, place)
    return target
