"""A run as its directory tells it, finished or still running: what report, comparison and terminal summary are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from training.checkpoint import find_checkpoint, read_checkpoint
from training.config import TrainingConfig
from training.errors import CheckpointError
from training.gradients.conclusion import conclude
from training.gradients.evidence import Evidence, NeedEvidence
from training.gradients.jacobian import STACK
from training.gradients.readings import Readings
from training.gradients.verdict import Verdict
from training.judgement import flat_settings
from training.report.flow import layers_of, median_curve, reach_of_curve
from training.report.words import Unit, collect_remedies, headline, remedy_command
from training.run_directory import RUNS, RunDirectory

Status = Literal["running", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class RunReview:
    """Everything known about one run.

    Attributes:
        name: What the run is called.
        path: Its directory.
        config: As it was resolved.
        readings: What the instruments measured.
        evidence: What the rules look at besides.
        verdict: What they concluded.
        status: How far the run is.
        is_preliminary: Whether the verdict was drawn just now from the last checkpoint.
    """

    name: str
    path: Path
    config: TrainingConfig
    readings: Readings
    evidence: Evidence
    verdict: Verdict
    status: Status = "finished"
    is_preliminary: bool = False

    @property
    def unit(self) -> Unit:
        """What a step of the data is called."""
        return Unit.of(self.config.data.freq)

    @property
    def config_path(self) -> Path | None:
        """The configuration file, to train again with; None if it is not there."""
        path = self.path / "config.yaml"
        return path if path.is_file() else None

    @property
    def forensics(self) -> Path | None:
        """What a stop at a number that is none left, to repeat the step with; None if there was no such stop."""
        path = self.path / "forensics"
        return path if path.is_dir() else None

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration with dotted keys."""
        return flat_settings(self.config)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that lag curves exist of: the whole stack where there are several, then from the output down."""
        return tuple(layers_of(self.readings))

    @property
    def typical_reach(self) -> int | None:
        """Reach of the median curve over the training, if that is short of the need and the end is not; else None.

        A verdict of vanishing rests on the median over the training: where the network found its way back late, the
        last measurement alone would not show why.
        """
        need, reach = self.verdict.need_steps, self.verdict.reach_steps
        if self.verdict.verdict != "vanishing" or need is None or reach is None or reach < need:
            return None
        curve = median_curve(self.readings, self.layers[0]) if self.layers else {}
        typical = reach_of_curve(curve) if curve else reach
        return typical if typical < need else None

    @property
    def shown_curve(self) -> dict[int, float]:
        """Lag to ratio of the whole network, as the verdict saw it: at the end, or over the training."""
        if not self.layers:
            return {}
        if self.typical_reach is not None:
            return median_curve(self.readings, self.layers[0])
        return self.readings.curve(f"jacobian/{self.layers[0]}")

    @property
    def ratio_at_need(self) -> float:
        """Share of the gradient that arrived at the need when last measured; NaN if nobody measured it."""
        ratio = self.readings.last("grad_reach/ratio_at_need")
        return math.nan if ratio is None else ratio

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `gradcast diagnose --json`; `gradients` is as in that of `train --json`."""
        evidence, ratio = self.evidence, self.ratio_at_need
        return {
            "run": str(self.path),
            "status": self.status,
            "is_preliminary": self.is_preliminary,
            "headline": headline(self.verdict, evidence, self.unit, self.typical_reach),
            "gradients": self.verdict.model_dump(mode="json"),
            "ratio_at_need": None if math.isnan(ratio) else ratio,
            "need": None if evidence.need is None else evidence.need.model_dump(mode="json"),
            "outcome": None if evidence.outcome is None else evidence.outcome.model_dump(mode="json"),
            "step": evidence.step,
            "best_step": evidence.best_step,
            "commands": [remedy_command(remedy, self.config_path) for _, remedy in collect_remedies(self.verdict)],
            "curves": {
                layer: {str(lag): ratio for lag, ratio in self.readings.curve(f"jacobian/{layer}").items()}
                for layer in self.layers
            },
        }


def latest_run(root: Path = RUNS) -> Path:
    """The newest run under `runs/`, finished or not.

    Raises:
        CheckpointError: If there is none.
    """
    states = sorted(root.glob("*/run.json"), key=lambda file: file.stat().st_mtime)
    if not states:
        remedy = "Name a run's directory, or start one with gradcast train."
        raise CheckpointError(str(root), "a folder with a run in it", "without one", remedy)
    return states[-1].parent


def read_run(path: Path | None = None) -> RunReview:
    """Read a run from its directory.

    Args:
        path: The directory; None = the newest under `runs/`.

    Returns:
        The run as it ended; of one that has not, what its last checkpoint shows, with the verdict drawn now.

    Raises:
        CheckpointError: If this is no run, it has measured nothing yet, or a file is damaged.
    """
    run = RunDirectory(path if path is not None else latest_run())
    if not run.state_path.is_file() and not (run.path / "gradients" / "readings.parquet").is_file():
        raise CheckpointError(str(run.path), "the directory of a run", "without run.json", "See the folders in runs/.")
    if not (run.path / "config.yaml").is_file():
        raise CheckpointError(
            str(run.path), "the directory of a run", "without config.yaml", "See the folders in runs/."
        )
    status: Status = run.state().get("status", "finished") if run.state_path.is_file() else "finished"
    if status == "running" and run.lock_path.exists() and not run.is_running:
        status = "stopped"  # killed outright: it could not say so itself
    if (run.path / "gradients" / "verdict.json").is_file() and status != "running":
        return _read_finished(run, status)
    return _read_unfinished(run, status)


def _read_finished(run: RunDirectory, status: Status) -> RunReview:
    folder = run.path / "gradients"
    readings_path = folder / "readings.parquet"
    readings = _read_readings(readings_path) if readings_path.is_file() else Readings()
    verdict = _read_model(Verdict, folder / "verdict.json")
    config, evidence_path = run.config(), folder / "evidence.json"
    # A fit that ended by an infinite number leaves a verdict, and perhaps nothing else.
    evidence = _read_model(Evidence, evidence_path) if evidence_path.is_file() else _evidence_of(config, readings, 0, 0)
    return RunReview(run.path.resolve().name, run.path, config, readings, evidence, verdict, status)


def _read_unfinished(run: RunDirectory, status: Status) -> RunReview:
    config, path = run.config(), find_checkpoint(run.checkpoints)
    if path is None:
        remedy = (
            f"The first is written at step {config.fit.val_check_steps} (fit.val_check_steps); ask again then."
            if status == "running"
            else "It ended before its first validation; its log says why."
        )
        raise CheckpointError(str(run.path), "a run with a checkpoint", "one without", remedy)
    _, document = read_checkpoint(path)
    try:
        readings = Readings.from_dict(document["readings"])
        step, best_step = int(document["step"]), int(document["best_step"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(str(path), "a checkpoint of this program", "another one") from None
    evidence_path = run.path / "gradients" / "evidence.json"
    known = _read_model(Evidence, evidence_path) if evidence_path.is_file() else None
    evidence = _evidence_of(config, readings, step, best_step, known)
    verdict = conclude(evidence, readings)
    return RunReview(
        run.path.resolve().name, run.path, config, readings, evidence, verdict, status, is_preliminary=True
    )


def _evidence_of(
    config: TrainingConfig, readings: Readings, step: int, best_step: int, known: Evidence | None = None
) -> Evidence:
    """What can be said before the end: nothing of the outcome, and of the need what was known at the start."""
    if known is not None:
        return known.model_copy(update={"step": step, "best_step": best_step})
    declared = config.gradients.need_steps
    need = NeedEvidence(steps=declared, source="declared", is_shown=True) if declared is not None else None
    layers = tuple(layer for layer in reversed(layers_of(readings)) if layer != STACK)
    return Evidence(settings=flat_settings(config), layers=layers, need=need, step=step, best_step=best_step)


def _read_readings(path: Path) -> Readings:
    try:
        return Readings.read_parquet(path)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(str(path), "a readable table", f"not: {str(error)[:120]}") from None


def _read_model(model: Any, path: Path) -> Any:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(str(path), "a readable JSON document", f"not: {str(error)[:120]}") from None
