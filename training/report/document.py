"""The report of a run: one HTML file, the verdict first, then what shows it, then what to do about it."""

from __future__ import annotations

import math
import shlex
from html import escape

from training.gradients.verdict import Remedy, Verdict
from training.plots import figure_to_png, plot_grad_norms, plot_losses
from training.report.flow import flow_steps, layers_of, spread_steps
from training.report.flow_plots import plot_flow, plot_flow_over_time, plot_lag_curves
from training.report.hero import STATUS_WORDS, hero
from training.report.page import (
    command_block,
    details,
    figure_block,
    figure_to_svg,
    html_page,
    section,
    slider_block,
    table,
)
from training.report.review import RunReview
from training.report.state_plots import plot_gate_map, plot_need
from training.report.tables import FINDING_HEADINGS, GLOSSARY, findings_rows, measurement_rows, norm_columns
from training.report.words import BASELINE_WORDS, RULE_WORDS, collect_remedies, outcome_sentence, remedy_command

MAX_REMEDIES = 4


def write_report(review: RunReview) -> str:
    """Write the report of a run.

    Args:
        review: The run, finished or running.

    Returns:
        A complete HTML document without references to anything outside of it.
    """
    parts = [
        _header(review),
        hero(review),
        _remedies(review),
        _evidence(review),
        section("Forecasts against simple methods", _outcome(review), outcome_sentence(review.evidence.outcome)),
        section("The course of the training", _course(review)),
        section("All findings", _findings(review.verdict), _findings_lead(review.verdict)),
        section("Other measurements", _measurements(review)),
        section(
            "Settings",
            details("The resolved configuration", f"<pre><code>{escape(review.config.to_public_yaml())}</code></pre>"),
        ),
        section("Words", _glossary()),
        _footer(review),
    ]
    return html_page(f"{review.verdict.verdict}: {review.name}", "\n".join(part for part in parts if part))


def write_report_files(review: RunReview) -> None:
    """Write `gradients/report.html` and `gradients/flow.png` into the run's directory.

    Args:
        review: The run; without a measured flow there is no picture of it.
    """
    folder = review.path / "gradients"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(write_report(review), encoding="utf-8")
    if review.layers:
        flow = plot_flow_over_time(review.readings, review.verdict.need_steps, review.layers, review.unit)
        (folder / "flow.png").write_bytes(figure_to_png(flow))


def _footer(review: RunReview) -> str:
    command = f"gradcast diagnose {shlex.quote(str(review.path))} --html report.html"
    return f"<footer>Written by gradcast from the run's own files; again: <code>{escape(command)}</code></footer>"


def _header(review: RunReview) -> str:
    model, unit = review.config.model, review.unit
    layers = f", {model.num_layers} layer{'s' if model.num_layers != 1 else ''} of {model.hidden_size} units"
    layers += f", {100 * model.linear_share:.0f} % of the forecast from a linear map" if model.linear_share else ""
    recurrent = f" ({model.recurrent_length:,} through its recurrence)" if model.recurrent_length else ""
    facts = [
        f"<b>{escape(review.name)}</b>",
        f"{escape(model.architecture or 'a network not chosen yet')}{'' if model.architecture == 'linear' else layers}",
        f"sees {unit.count(model.context_length or 0)}{recurrent}, forecasts {unit.count(model.horizon or 0)}",
        f"{review.evidence.step:,} training steps, {STATUS_WORDS[review.status]}",
        escape(unit.note),
    ]
    return (
        "<header><span>Gradient report</span>" + "".join(f"<span>{fact}</span>" for fact in facts if fact) + "</header>"
    )


def _remedies(review: RunReview) -> str:
    remedies = collect_remedies(review.verdict)[:MAX_REMEDIES]
    replay = ""
    if review.forensics is not None:
        command = command_block(f"gradcast diagnose --replay {shlex.quote(str(review.forensics))}")
        replay = f"<p>Repeat the step it stopped at, and see where the first such number appeared:</p>{command}"
    if not remedies:
        return section("What to do", replay)
    items = "".join(
        f"<li>{escape(remedy.why[:1].upper() + remedy.why[1:])}."
        f"{command_block(remedy_command(remedy, review.config_path))}"
        f'<span class="note">For: {escape(RULE_WORDS.get(finding.rule, finding.rule).lower())}.</span></li>'
        for finding, remedy in remedies
    )
    healing = Remedy(why="", set={"gradients.on_fault": "heal"})
    heal = command_block(remedy_command(healing, review.config_path))
    offer = "<p>Or let gradcast try them one after the other and keep what helps:</p>"
    return section(
        "What to do",
        f'<ol class="remedies">{items}</ol>{offer}{heal}{replay}',
        "The most promising change first. Each line trains again with these settings; whether it helped is for the "
        "validation error to say, not for the gradient.",
    )


def _evidence(review: RunReview) -> str:
    readings, unit, need = review.readings, review.unit, review.verdict.need_steps
    layers, steps = layers_of(readings), flow_steps(readings)
    parts = []
    if layers:
        frames = [
            (
                step,
                figure_to_svg(
                    plot_flow(readings, step, need, layers, unit), f"flow{step}", f"gradient flow, step {step}"
                ),
            )
            for step in spread_steps(steps)
        ]
        parts.append(
            slider_block(
                frames, "flow",
                f"How much of the correction arrives how far back, relative to the last 5 {unit.many} (= 1). Full colour: all "
                "of it; no colour: nothing; red: it grows. Move the slider to see the training go by.",
            )
        )  # fmt: skip
        caption = (
            "Solid: the last measurement. Dashed: the first. Dotted, where measured: the gradient of the loss itself."
        )
        curves = figure_to_svg(
            plot_lag_curves(readings, need, layers, unit), "curves", "share of the gradient over lag"
        )
        parts.append(figure_block(curves, caption))
    if len(steps) > 1:
        over_time = figure_to_svg(plot_flow_over_time(readings, need, layers, unit), "time", "gradient flow over time")
        caption = "The same over the whole training, from left to right; what lies above the line of the reach does not arrive."
        parts.append(figure_block(over_time, caption))
    if review.evidence.need is not None:
        figure = plot_need(review.evidence.need, review.verdict.reach_steps, unit)
        if figure is not None:
            caption = (
                "A linear model's error, by how much of the past it is shown: where it stops falling, the need ends."
            )
            parts.append(figure_block(figure_to_svg(figure, "need", "error of a linear model over context"), caption))
    gates = plot_gate_map(readings)
    if gates is not None:
        caption = "Gates and states over the training. A gate that is shut, or stuck at its limit for most units, cannot learn."
        parts.append(figure_block(figure_to_svg(gates, "gates", "gates over the training"), caption))
    return section("What shows it", "".join(parts))


def _outcome(review: RunReview) -> str:
    outcome = review.evidence.outcome
    if outcome is None:
        return ""
    errors = {"this network": outcome.val_error} | {
        BASELINE_WORDS.get(name, name.replace("_", " ")): error for name, error in outcome.baseline_error.items()
    }
    shown = {name: error for name, error in errors.items() if math.isfinite(error)}
    largest = max(shown.values(), default=0.0) or 1.0
    rows = "".join(
        f'<span class="{kind}">{escape(name)}</span><i class="{kind}" style="width:{100 * error / largest:.1f}%"></i>'
        f'<span class="{kind}">{error:.4g}</span>'
        for name, error in sorted(shown.items(), key=lambda item: item[1])
        for kind in ["own" if name == "this network" else ""]
    )
    caption = f"{outcome.metric.upper()} on validation windows that were not trained on; shorter is better."
    return f'<div class="bars">{rows}</div><p class="note">{caption}</p>'


def _course(review: RunReview) -> str:
    readings, parts = review.readings, []
    train, val = readings.series("loss/train"), readings.series("loss/val")
    if train[0] and val[0]:
        losses = figure_to_svg(
            plot_losses(*train, *val, best_step=review.evidence.best_step), "losses", "loss over steps"
        )
        parts.append(figure_block(losses, "What training minimises, on the data it trains on and on data held back."))
    steps, norms = norm_columns(readings)
    if norms:
        figure = plot_grad_norms(steps, norms, review.config.fit.max_grad_norm)
        caption = "Size of the gradient per layer, before clipping: jumps unsettle the training, a flat zero ends it."
        parts.append(figure_block(figure_to_svg(figure, "norms", "gradient norms over steps"), caption))
    return "".join(parts)


def _findings_lead(verdict: Verdict) -> str:
    if verdict.findings:
        return "A fault needs bad forecasts as well as a bad signal; a signal alone is information."
    return "None of the rules found anything to report."


def _findings(verdict: Verdict) -> str:
    if not verdict.findings:
        return "<p>No finding.</p>"
    return table(FINDING_HEADINGS, findings_rows(verdict))


def _measurements(review: RunReview) -> str:
    rows = measurement_rows(review.readings, review.evidence, review.unit.many)
    return table(("quantity", "layer", "last value", "unit", "meaning"), rows) if rows else ""


def _glossary() -> str:
    return (
        "<dl>" + "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in GLOSSARY.items()) + "</dl>"
    )
