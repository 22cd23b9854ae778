"""What is left of a training when its process is gone: plain values, which may come from another machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from training.backtest_text import format_backtest
from training.pipeline import TrainingResult


@dataclass(frozen=True)
class Outcome:
    """What a finished training reports.

    Attributes:
        document: Of `train --json`.
        summary: The same for people.
        verdict: On the gradients.
        num_unsent: Events that wait for `gradcast sync`.
    """

    document: dict[str, Any]
    summary: str
    verdict: str
    num_unsent: int

    @classmethod
    def of(cls, result: TrainingResult) -> Outcome:
        """Everything that is reported of a result."""
        return cls(result.to_dict(), summarize(result), result.verdict.verdict, result.num_unsent)


def summarize(result: TrainingResult) -> str:
    """Backtest beside the baselines, verdict, and where everything is."""
    lines = []
    for part, backtest in result.backtests.items():
        heading = "validation" if part == "val" else "test"
        lines.append(f"\n{heading}\n{format_backtest(backtest, model_name=result.prepared.config.model.network)}")
    lines.append(f"\ngradient verdict: {result.verdict.verdict}")
    for finding in result.verdict.findings:
        lines.append(f"  {finding.severity}: {finding.message}")
        for remedy in finding.remedies:
            settings = " ".join(f"--set {key}={value}" for key, value in remedy.set.items())
            lines.append(f"    remedy: {remedy.why}: {settings}")
    lines += [f"check: {check}" for check in result.checks]
    if result.model is not None:
        aliases = f" ({', '.join(result.model.aliases)})" if result.model.aliases else " (no alias: not healthy)"
        lines.append(f"registered {result.model.uri}{aliases}")
    lines.append(f"bundle     {result.directory / 'bundle'}")
    return "\n".join(lines)
