"""Trainings under faults, and what must be true of them afterwards."""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from collections import Counter
from pathlib import Path

from tests.faults.children import Fault, kill_group, run_command, start
from training.tracking.environment import open_client

STEPS, CHECK_STEPS = 40, 10
SETTINGS = [
    "model.hidden_size=4", "model.horizon=4", "model.context_length=14", "fit.batch_size=8", f"fit.max_steps={STEPS}",
    f"fit.val_check_steps={CHECK_STEPS}", "fit.patience=null", "gradients.preset=off", "data.keep_context=false",
]  # fmt: skip
DEADLINE_SECONDS = 120.0
NO_FAULT = Fault()


def words_for(data: Path, uri: str, name: str = "waves") -> list[str]:
    """What the user typed."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", "--data", str(data), "--name", name, "--tracking-uri", uri, "--output", "run", "--quiet", *settings]


def run(folder: Path, words: list[str], fault: Fault = NO_FAULT, read_only: bool = False) -> int:
    """The exit code of a command with a fault in it; negative: the signal that ended it."""
    process = start(run_command, folder, words, fault, read_only)
    process.join(DEADLINE_SECONDS)
    is_hanging = process.exitcode is None
    kill_group(process)
    assert not is_hanging, f"it hangs:\n{said(folder)}"
    return int(process.exitcode or 0)


def said(folder: Path) -> str:
    """Everything that was said so far."""
    log = folder / "train.log"
    return log.read_text(encoding="utf-8") if log.exists() else ""


def named_way_on(folder: Path, otherwise: list[str]) -> list[str]:
    """The command that the last message names, word for word."""
    found = re.findall(r"continue: gradcast (.+)", said(folder))
    return [*shlex.split(found[-1]), "--quiet"] if found else otherwise


def finish(folder: Path, words: list[str]) -> float:
    """Go on until it is done; tells the seconds."""
    started = time.monotonic()
    assert run(folder, words) == 0, said(folder)
    return time.monotonic() - started


def weights(folder: Path, directory: str = "run") -> str:
    """Identity of what was learned."""
    return hashlib.sha256((folder / directory / "bundle" / "weights.safetensors").read_bytes()).hexdigest()


def losses(uri: str, name: str = "waves", num_runs: int = 1, num_versions: int = 1) -> tuple[int, int]:
    """Points, runs and versions of a finished training that are lost, and that are doubled, in the store."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name("gradcast")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    versions = client.search_model_versions(f"name = '{name}'")
    lost = max(0, num_runs - len(runs)) + max(0, num_versions - len(versions))
    doubled = max(0, len(runs) - num_runs) + max(0, len(versions) - num_versions)
    for entry in runs:
        assert entry.info.status == "FINISHED"
        assert entry.info.end_time >= entry.info.start_time
        for key, wanted in (("loss/val", CHECK_STEPS), ("val/mae", STEPS)):
            steps = Counter(point.step for point in client.get_metric_history(entry.info.run_id, key))
            lost += sum(step not in steps for step in range(wanted, STEPS + 1, wanted))
            doubled += sum(count - 1 for count in steps.values())
    return lost, doubled
