"""Two runs side by side: what was set differently, what the gradients did, and which forecasts better."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from training.report.flow_plots import plot_compared_curves, plot_compared_series
from training.report.hero import TONES, badge
from training.report.page import figure_block, figure_to_svg, html_page, section, table
from training.report.review import RunReview
from training.report.tables import FINDING_HEADINGS, findings_rows
from training.report.words import headline, outcome_sentence, ratio_text, setting_text

# Settings that name a run rather than decide anything in it.
_NAMES = ("tracking.",)


def differing_settings(first: RunReview, second: RunReview) -> dict[str, tuple[Any, Any]]:
    """Dotted configuration keys whose values differ, with both values."""
    left, right = first.settings, second.settings
    return {
        key: (left.get(key), right.get(key))
        for key in dict.fromkeys([*left, *right])
        if left.get(key) != right.get(key) and not key.startswith(_NAMES)
    }


def comparison_rows(first: RunReview, second: RunReview) -> list[tuple[str, str, str]]:
    """What matters of both runs: a label and a text for each."""
    runs = (first, second)
    outcomes = [run.evidence.outcome for run in runs]
    rows = [
        ("verdict", *(run.verdict.verdict.replace("_", " ") for run in runs)),
        ("reach", *(_steps(run, run.verdict.reach_steps) for run in runs)),
        ("need", *(_steps(run, run.verdict.need_steps) for run in runs)),
        ("left of the gradient at the need", *(_ratio(run) for run in runs)),
        (
            "forecast error",
            *(
                f"{outcome.val_error:.4g} ({outcome.metric.upper()})" if outcome else "not measured"
                for outcome in outcomes
            ),
        ),
        ("best validation loss", *(_best_loss(run) for run in runs)),
        ("training steps", *(f"{run.evidence.step:,}" for run in runs)),
        ("findings", *(_count_findings(run) for run in runs)),
    ]
    return [(label, left, right) for label, left, right in rows]


def conclusion(first: RunReview, second: RunReview) -> str:
    """Which run forecasts better, and by how much; reach alone decides nothing."""
    a, b = first.evidence.outcome, second.evidence.outcome
    if (
        a is None
        or b is None
        or a.metric != b.metric
        or not (math.isfinite(a.val_error) and math.isfinite(b.val_error))
    ):
        return "Which one forecasts better cannot be said: their errors were not measured alike."
    if first.config.model.horizon != second.config.model.horizon or first.config.data.path != second.config.data.path:
        return "Which one forecasts better cannot be said: they forecast different data or horizons."
    if a.val_error == b.val_error:
        return f"Both forecast equally well ({a.metric.upper()} {a.val_error:.4g})."
    better, worse = (first, second) if a.val_error < b.val_error else (second, first)
    low, high = sorted((a.val_error, b.val_error))
    return (
        f"{better.name} forecasts better than {worse.name}: {a.metric.upper()} {low:.4g} against {high:.4g}, "
        f"{1 - low / high:.0%} lower."
    )


def comparison_to_dict(first: RunReview, second: RunReview) -> dict[str, Any]:
    """The JSON document of `gradcast diagnose A B --json`."""
    return {
        "conclusion": conclusion(first, second),
        "settings": {key: list(values) for key, values in differing_settings(first, second).items()},
        "runs": [first.to_dict(), second.to_dict()],
    }


def write_comparison(first: RunReview, second: RunReview) -> str:
    """Write both runs into one self-contained HTML page.

    Args:
        first: Drawn and listed on the left.
        second: On the right.

    Returns:
        A complete HTML document without references to anything outside of it.
    """
    settings = [(key, setting_text(a), setting_text(b)) for key, (a, b) in differing_settings(first, second).items()]
    same = "<p>They were trained with the same settings.</p>"
    names = (first.name, second.name)
    parts = [
        "<header><span>Two runs side by side</span></header>",
        f'<div class="pair">{_card(first)}{_card(second)}</div>',
        section("What came of it", table(("", *names), comparison_rows(first, second)), conclusion(first, second)),
        section("What was set differently", table(("setting", *names), settings) if settings else same),
        section("What shows it", "".join(_figures(first, second))),
        *(section(f"Findings of {run.name}", _findings(run)) for run in (first, second)),
    ]
    return html_page(f"{names[0]} and {names[1]}", "\n".join(part for part in parts if part))


def _card(run: RunReview) -> str:
    verdict = run.verdict
    sentence = headline(verdict, run.evidence, run.unit, run.typical_reach)
    return (
        f'<div class="hero {TONES.get(verdict.verdict, "bad")}">{badge(verdict)} <b>{escape(run.name)}</b>'
        f'<h1>{escape(sentence)}</h1><p class="lead">{escape(outcome_sentence(run.evidence.outcome))}</p></div>'
    )


def _figures(first: RunReview, second: RunReview) -> list[str]:
    names = (first.name, second.name if second.name != first.name else f"{second.name} (2)")
    runs = dict(zip(names, (first, second), strict=True))
    needs = [run.verdict.need_steps for run in (first, second) if run.verdict.need_steps is not None]
    need = max(needs, default=None)
    losses = {name: run.readings.series("loss/val") for name, run in runs.items()}
    reaches = {name: run.readings.series(f"grad_reach/{run.layers[0]}") for name, run in runs.items() if run.layers}
    figures = {
        "curves": (
            plot_compared_curves({name: run.readings for name, run in runs.items()}, need, first.unit),
            "How much of the correction arrives how far back: solid at the last measurement, dashed at the first.",
        ),
        "loss": (
            plot_compared_series(losses, "Validation loss", "loss"),
            "Error on data held back while training went on; comparable only where both were trained with the same loss.",
        ),
        "reach": (
            plot_compared_series(reaches, "Reach over the training", first.unit.many, need),
            "How far back the corrections got.",
        ),
    }
    return [
        figure_block(figure_to_svg(figure, name, caption), caption)
        for name, (figure, caption) in figures.items()
        if figure is not None
    ]


def _findings(run: RunReview) -> str:
    if not run.verdict.findings:
        return "<p>No finding.</p>"
    return table(FINDING_HEADINGS, findings_rows(run.verdict))


def _steps(run: RunReview, steps: int | None) -> str:
    return "not measured" if steps is None else run.unit.count(steps)


def _ratio(run: RunReview) -> str:
    return "not measured" if math.isnan(run.ratio_at_need) else ratio_text(run.ratio_at_need)


def _best_loss(run: RunReview) -> str:
    losses = [loss for loss in run.readings.series("loss/val")[1] if math.isfinite(loss)]
    return f"{min(losses):.4g}" if losses else "not measured"


def _count_findings(run: RunReview) -> str:
    counts = {
        severity: sum(finding.severity == severity for finding in run.verdict.findings)
        for severity in ("fault", "warning", "info")
    }
    words = {"fault": "faults", "warning": "warnings", "info": "infos"}
    parts = [f"{count} {severity if count == 1 else words[severity]}" for severity, count in counts.items() if count]
    return ", ".join(parts) or "none"
