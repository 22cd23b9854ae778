"""Verdicts of finished runs: as they were drawn, or drawn anew from what the run left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from outcomes import Outcome

from training.gradients.conclusion import conclude, conclude_non_finite
from training.gradients.evidence import Evidence
from training.gradients.readings import Readings
from training.gradients.verdict import Verdict


def read_log(folder: Path) -> tuple[Evidence, Readings]:
    """Evidence and readings of a base run."""
    evidence = Evidence.model_validate_json((folder / "evidence.json").read_text(encoding="utf-8"))
    return evidence, Readings.read_parquet(folder / "readings.parquet")


def draw_verdict(folder: Path, outcome: Outcome, recompute: bool) -> Verdict:
    """The verdict on a base run.

    Args:
        folder: Of the run.
        outcome: Of the run; a fit that stopped at a number that was none has the verdict that gradcast gives it then.
        recompute: Whether to apply today's rules to the log.
    """
    if recompute and outcome.failure:
        return conclude_non_finite(outcome.failure, "fit", 0, *read_log(folder))
    if recompute:
        return conclude(*read_log(folder))
    return Verdict.model_validate_json((folder / "verdict.json").read_text(encoding="utf-8"))


def first_remedy(verdict: Verdict) -> dict[str, Any]:
    """What the first finding proposes first; empty where nothing is wrong or nothing is proposed."""
    if verdict.verdict in ("healthy", "inconclusive") or not verdict.findings:
        return {}
    remedies = verdict.findings[0].remedies
    return dict(remedies[0].set) if remedies else {}
