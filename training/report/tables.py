"""Tables of a report as rows of text, and the words that are explained at its end."""

from __future__ import annotations

from training.gradients.evidence import Evidence
from training.gradients.readings import Readings
from training.gradients.verdict import Verdict
from training.report.words import RULE_WORDS, ratio_text

FINDING_HEADINGS = ("severity", "what", "where", "step", "measured", "limit", "in full")
GLOSSARY = {
    "gradient": "The correction that training computes for every weight: in which direction, and how strongly, to turn it "
    "so that the error shrinks.",
    "lag": "How many steps before the forecast something happened.",
    "reach": "The lag out to which at least a thousandth of the gradient at lags 1 to 5 arrives. What happened earlier "
    "cannot teach the network anything.",
    "need": "The lag out to which looking back improves forecasts of this data, as a linear model shows, or as declared "
    "in the settings (gradients.need_steps).",
    "Jacobian": "How much the network's final state answers to a small change of its state at a lag. The curves here "
    "show its size, so they do not shrink merely because a network has finished learning.",
    "half-life": "Steps over which the gradient halves on its way into the past.",
    "gate": "A valve inside an LSTM or GRU: it decides what is remembered, written and shown. Stuck at a limit, it "
    "cannot learn.",
    "MASE": "Mean absolute scaled error: the forecast's mean error over that of repeating the last season on the "
    "training data. Below 1 is better than that.",
    "baseline": "A simple forecast on the same data; a network that is no better has learned nothing of use.",
}


def norm_columns(readings: Readings) -> tuple[list[int], dict[str, list[float]]]:
    """Steps and gradient norms of the total and of every layer, those of single matrices and gates left out."""
    names = ["total", *(name.removeprefix("update_ratio/") for name in readings.names("update_ratio/"))]
    steps, total = readings.series("grad_norm/total")
    columns = {name: readings.series(f"grad_norm/{name}")[1] for name in names}
    return steps, {name: values for name, values in columns.items() if values and len(values) == len(total)}


def findings_rows(verdict: Verdict) -> list[tuple[str, ...]]:
    """One row per finding: severity, what, where, step, measured value, threshold, sentence."""
    return [
        (
            finding.severity, RULE_WORDS.get(finding.rule, finding.rule), finding.where, f"{finding.step:,}",
            ratio_text(finding.value), ratio_text(finding.threshold), finding.message,
        )
        for finding in verdict.findings
    ]  # fmt: skip


def measurement_rows(readings: Readings, evidence: Evidence, steps_word: str) -> list[tuple[str, ...]]:
    """The last value of everything that has no figure of its own, with unit and meaning.

    Args:
        readings: What was measured.
        evidence: Its facts about the data are listed too.
        steps_word: What steps of the data are called.
    """
    quantities = {
        "half_life/": ("half-life", steps_word, "the gradient halves over so many"),
        "memory/": (
            "memory of a gate",
            steps_word,
            "until a third of a state is left; p90 is the slowest tenth of units",
        ),
        "spectral_radius/": ("spectral radius", "1 per step", "above 1 the recurrent matrix makes things grow"),
        "lyapunov/": ("Lyapunov exponent", "1 per step", "above 0 nearby states part, below 0 they are forgotten"),
        "past_use/steps": ("past in use", steps_word, "exchanging what is older changes the loss by under 1 %"),
        "series_share/largest": ("largest series' share", "of 1", "one series alone makes this part of the gradient"),
        "update_ratio/": ("update ratio", "of the weights' size", "change by one step; about 10⁻³ is usual"),
    }
    rows: list[tuple[str, ...]] = []
    for prefix, (label, unit, meaning) in quantities.items():
        for name in readings.names(prefix):
            value = readings.last(name)
            if value is not None and (prefix.endswith("/") or name == prefix):
                layer = name.removeprefix(prefix).replace("stack", "whole network") if prefix.endswith("/") else ""
                rows.append((label, layer, ratio_text(value), unit, meaning))
    if evidence.data is not None:
        ratio = ratio_text(evidence.data.channel_ratio)
        rows.append(
            ("channels' sizes", "", ratio, "largest over smallest", "what the network reads should be of like size")
        )
        rows.append(
            (
                "outliers",
                "",
                ratio_text(evidence.data.outlier_ratio),
                "interquartile ranges",
                "size of the largest 0.1 %",
            )
        )
    return rows
