"""Verdicts of finished runs: as they were drawn, or drawn anew from what the run left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.gradients.conclusion import conclude
from training.gradients.evidence import Evidence
from training.gradients.readings import Readings
from training.gradients.verdict import Verdict


def read_log(folder: Path) -> tuple[Evidence, Readings] | None:
    """Evidence and readings of a base run; None if its fit stopped at a number that was none."""
    if not (folder / "evidence.json").exists():
        return None
    evidence = Evidence.model_validate_json((folder / "evidence.json").read_text(encoding="utf-8"))
    return evidence, Readings.read_parquet(folder / "readings.parquet")


def draw_verdict(folder: Path, recompute: bool) -> Verdict:
    """The verdict on a base run.

    Args:
        folder: Of the run.
        recompute: Whether to apply today's rules; a fit that stopped at a bad number keeps its verdict.
    """
    log = read_log(folder) if recompute else None
    if log is not None:
        return conclude(*log)
    return Verdict.model_validate_json((folder / "verdict.json").read_text(encoding="utf-8"))


def first_remedy(verdict: Verdict) -> dict[str, Any]:
    """What the first finding proposes first; empty where nothing is wrong or nothing is proposed."""
    if verdict.verdict in ("healthy", "inconclusive") or not verdict.findings:
        return {}
    remedies = verdict.findings[0].remedies
    return dict(remedies[0].set) if remedies else {}
