"""The report of a run: one HTML file, the verdict first, then what shows it, then what to do about it."""

from __future__ import annotations

import math
from html import escape

from training.gradient_plots import (
    flow_steps,
    layers_of,
    plot_flow,
    plot_flow_over_time,
    plot_gate_map,
    plot_lag_curves,
    plot_need,
)
from training.gradients.evidence import Evidence
from training.gradients.readings import Readings
from training.gradients.rules.thresholds import VANISHING_WARNING
from training.gradients.verdict import Verdict
from training.plain_words import (
    BASELINE_WORDS,
    NEED_SOURCES,
    RULE_WORDS,
    collect_remedies,
    explanation,
    headline,
    one_part_in,
    outcome_sentence,
    ratio_text,
    remedy_command,
)
from training.plots import plot_grad_norms, plot_losses
from training.report_page import (
    command_block,
    details,
    figure_block,
    figure_to_svg,
    html_page,
    section,
    slider_block,
    table,
    tile,
)
from training.run_review import RunReview

# Steps behind the slider: enough to see a change, few enough for a small file.
MAX_FRAMES = 24
MAX_REMEDIES = 4
TONES = {"healthy": "good", "inconclusive": "unsure"}
STATUS_WORDS = {
    "finished": "finished",
    "running": "still running",
    "stopped": "stopped by the user",
    "failed": "ended by an error",
}
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
        section("Settings", details("The resolved configuration", f"<pre><code>{escape(review.config.to_yaml())}</code></pre>")),
        section("Words", _glossary()),
        f"<footer>Written by gradcast from the run's own files; the same report again: "
        f"<code>gradcast diagnose {escape(str(review.path))} --html report.html</code></footer>",
    ]
    return html_page(f"{review.verdict.verdict}: {review.name}", "\n".join(part for part in parts if part))


def hero(review: RunReview) -> str:
    """The first screen: verdict, its sentence, and how far the gradient reaches beside how far it should."""
    verdict, evidence, unit = review.verdict, review.evidence, review.unit
    notice = ""
    if review.is_preliminary:
        notice = (
            f'<p class="notice">This run is {STATUS_WORDS[review.status]}: the verdict was drawn from its checkpoint at '
            f"step {evidence.step:,} and may change.</p>"
        )
    return (
        f'<div class="hero {TONES.get(verdict.verdict, "bad")}"><span class="badge">{escape(verdict.verdict.replace("_", " "))}'
        f"</span><h1>{escape(headline(verdict, evidence, unit))}</h1><p>{escape(explanation(verdict, evidence, unit))}</p>"
        f"{notice}{_strip(review)}{_tiles(review)}</div>"
    )


def _header(review: RunReview) -> str:
    model, unit = review.config.model, review.unit
    layers = f"{model.num_layers} layer{'s' if model.num_layers != 1 else ''} of {model.hidden_size} units"
    facts = [
        f"<b>{escape(review.name)}</b>",
        f"{escape(model.architecture)}, {layers}",
        f"sees {unit.count(model.context_length or 0)}, forecasts {unit.count(model.horizon or 0)}",
        f"{review.evidence.step:,} training steps, {STATUS_WORDS[review.status]}",
        escape(unit.note),
    ]
    return "<header><span>Gradient report</span>" + "".join(f"<span>{fact}</span>" for fact in facts if fact) + "</header>"


def _strip(review: RunReview) -> str:
    """The past as a bar that fades with the gradient, reach and need marked on it."""
    layers, reach, need = layers_of(review.readings), review.verdict.reach_steps, review.verdict.need_steps
    curve = review.readings.curve(f"jacobian/{layers[0]}") if layers else {}
    if not curve or reach is None:
        return ""
    context = max(curve)
    whole, unit = max(context, need or 0), review.unit
    stops = ", ".join(f"rgb(0 0 0 / {_opacity(ratio):.3f}) {100 * lag / context:.2f}%" for lag, ratio in curve.items())
    fill = (
        f'<div class="fill" style="width:{100 * context / whole:.2f}%"><div style="height:100%;background:var(--blue);'
        f'-webkit-mask-image:linear-gradient(to right, {stops});mask-image:linear-gradient(to right, {stops})"></div></div>'
    )
    reached = "the correction arrives everywhere" if reach >= context else f"it reaches back <b>{unit.count(reach)}</b>"
    above, below = _mark("reach", reached, reach / whole), ""
    marks = f'<i class="mark reach" style="left:{100 * min(reach / whole, 1):.2f}%"></i>'
    if need is not None:
        below = _mark("need", f"the data pays back to <b>{unit.count(need)}</b>", need / whole)
        marks += f'<i class="mark need" style="left:{100 * need / whole:.2f}%"></i>'
    end = f"{unit.count(whole)} back" + (f" (the network is shown {unit.count(context)})" if context < whole else "")
    return (
        f'<div class="strip" role="img" aria-label="How far back the gradient reaches"><div class="marks">{above}</div>'
        f'<div class="bar">{fill}{marks}</div><div class="marks" style="margin-top:6px">{below}</div>'
        f'<div class="ends"><span>now</span><span>{end} →</span></div></div>'
    )


def _mark(kind: str, words: str, share: float) -> str:
    side = " left" if share > 0.5 else ""
    return f'<span class="{kind}{side}" style="left:{100 * min(share, 1):.2f}%">{words}</span>'


def _opacity(ratio: float) -> float:
    """Full where all of the gradient arrives, all but gone at the thousandth where the reach ends."""
    return min(max(1.0 + math.log10(ratio) / 3.5, 0.0), 1.0) if ratio > 0 else 0.0


def _tiles(review: RunReview) -> str:
    verdict, evidence, unit = review.verdict, review.evidence, review.unit
    tiles = []
    if verdict.reach_steps is not None:
        short = verdict.need_steps is not None and verdict.reach_steps < verdict.need_steps
        needed = evidence.need is not None and evidence.need.is_shown
        tone = "" if not needed else "bad" if short else "good"
        tiles.append(tile("reach: how far corrections get", unit.count(verdict.reach_steps), "at the last measurement", tone))
    if evidence.need is not None:
        tiles.append(tile("need: how far back the data pays", unit.count(evidence.need.steps), NEED_SOURCES[evidence.need.source]))
    ratio = review.ratio_at_need
    if not math.isnan(ratio) and verdict.need_steps is not None:
        label = f"left of the correction at {unit.count(verdict.need_steps)}"
        note = one_part_in(ratio) or f"of 1; short of {ratio_text(VANISHING_WARNING)} it is lost"
        tiles.append(tile(label, ratio_text(ratio), note, "bad" if ratio < VANISHING_WARNING else ""))
    if evidence.outcome is not None:
        outcome = evidence.outcome
        simple = {name: error for name, error in outcome.baseline_error.items() if math.isfinite(error)}
        best = min(simple, key=simple.__getitem__, default=None)
        note = f"best simple method: {simple[best]:.3g}" if best is not None else ""
        tone = "" if best is None else "bad" if not outcome.val_error <= simple[best] else "good"
        tiles.append(tile(f"forecast error ({outcome.metric.upper()})", f"{outcome.val_error:.3g}", note, tone))
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _remedies(review: RunReview) -> str:
    remedies = collect_remedies(review.verdict)[:MAX_REMEDIES]
    if not remedies:
        return ""
    items = "".join(
        f"<li>{escape(remedy.why[:1].upper() + remedy.why[1:])}."
        f"{command_block(remedy_command(remedy, review.config_path))}"
        f'<span class="note">For: {escape(RULE_WORDS.get(finding.rule, finding.rule).lower())}.</span></li>'
        for finding, remedy in remedies
    )
    config = f" --config {review.config_path}" if review.config_path is not None else ""
    heal = command_block(f"gradcast train{config} --set gradients.on_fault=heal")
    return section(
        "What to do",
        f'<ol class="remedies">{items}</ol><p>Or let gradcast try them one after the other and keep what helps:</p>{heal}',
        "The most promising change first. Each line trains again with these settings; whether it helped is for the "
        "validation error to say, not for the gradient.",
    )


def _evidence(review: RunReview) -> str:
    readings, unit, need = review.readings, review.unit, review.verdict.need_steps
    layers, steps = layers_of(readings), flow_steps(readings)
    parts = []
    if layers:
        frames = [
            (step, figure_to_svg(plot_flow(readings, step, need, layers, unit), f"flow{step}", f"gradient flow, step {step}"))
            for step in spread_steps(steps)
        ]
        parts.append(
            slider_block(
                frames, "flow",
                f"How much of the correction arrives how far back, relative to the last 5 {unit.many} (= 1). Full colour: all "
                "of it; no colour: nothing; red: it grows. Move the slider to see the training go by.",
            )
        )  # fmt: skip
        caption = "Solid: the last measurement. Dashed: the first. Dotted, where measured: the gradient of the loss itself."
        curves = figure_to_svg(plot_lag_curves(readings, need, layers, unit), "curves", "share of the gradient over lag")
        parts.append(figure_block(curves, caption))
    if len(steps) > 1:
        over_time = figure_to_svg(plot_flow_over_time(readings, need, layers, unit), "time", "gradient flow over time")
        caption = "The same over the whole training, from left to right; what lies above the black line does not arrive."
        parts.append(figure_block(over_time, caption))
    if review.evidence.need is not None:
        figure = plot_need(review.evidence.need, review.verdict.reach_steps, unit)
        if figure is not None:
            caption = "The error of a linear model on this data, by how much of the past it is shown: where it stops falling, the need ends."
            parts.append(figure_block(figure_to_svg(figure, "need", "error of a linear model over context"), caption))
    gates = plot_gate_map(readings)
    if gates is not None:
        caption = "Gates and states over the training. A gate that is shut, or stuck at its limit for most units, cannot learn."
        parts.append(figure_block(figure_to_svg(gates, "gates", "gates over the training"), caption))
    return section("What shows it", "".join(parts))


def spread_steps(steps: list[int]) -> list[int]:
    """At most as many steps as the slider has places, the first and the last among them."""
    if len(steps) <= MAX_FRAMES:
        return steps
    return [steps[round(place * (len(steps) - 1) / (MAX_FRAMES - 1))] for place in range(MAX_FRAMES)]


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
        losses = figure_to_svg(plot_losses(*train, *val, best_step=review.evidence.best_step), "losses", "loss over steps")
        parts.append(figure_block(losses, "What training minimises, on the data it trains on and on data held back."))
    steps, norms = norm_columns(readings)
    if norms:
        figure = plot_grad_norms(steps, norms, review.config.fit.max_grad_norm)
        caption = "Size of the gradient per layer, before clipping: jumps unsettle the training, a flat zero ends it."
        parts.append(figure_block(figure_to_svg(figure, "norms", "gradient norms over steps"), caption))
    return "".join(parts)


def norm_columns(readings: Readings) -> tuple[list[int], dict[str, list[float]]]:
    """Steps and gradient norms of the total and of every layer, those of single matrices and gates left out."""
    names = ["total", *(name.removeprefix("update_ratio/") for name in readings.names("update_ratio/"))]
    steps, total = readings.series("grad_norm/total")
    columns = {name: readings.series(f"grad_norm/{name}")[1] for name in names}
    return steps, {name: values for name, values in columns.items() if values and len(values) == len(total)}


def _findings_lead(verdict: Verdict) -> str:
    if verdict.findings:
        return "A fault needs bad forecasts as well as a bad signal; a signal alone is information."
    return "None of the rules found anything to report."


def _findings(verdict: Verdict) -> str:
    if not verdict.findings:
        return "<p>No finding.</p>"
    headings = ("severity", "what", "where", "step", "measured", "limit", "in full")
    return table(headings, findings_rows(verdict))


def findings_rows(verdict: Verdict) -> list[tuple[str, ...]]:
    """One row per finding: severity, what, where, step, measured value, threshold, sentence."""
    return [
        (
            finding.severity, RULE_WORDS.get(finding.rule, finding.rule), finding.where, f"{finding.step:,}",
            ratio_text(finding.value), ratio_text(finding.threshold), finding.message,
        )
        for finding in verdict.findings
    ]  # fmt: skip


def _measurements(review: RunReview) -> str:
    rows = measurement_rows(review.readings, review.evidence, review.unit.many)
    return table(("quantity", "layer", "last value", "unit", "meaning"), rows) if rows else ""


def measurement_rows(readings: Readings, evidence: Evidence, steps_word: str) -> list[tuple[str, ...]]:
    """The last value of everything that has no figure of its own, with unit and meaning.

    Args:
        readings: What was measured.
        evidence: Its facts about the data are listed too.
        steps_word: What steps of the data are called.
    """
    quantities = {
        "half_life/": ("half-life", steps_word, "the gradient halves over so many"),
        "memory/": ("memory of a gate", steps_word, "until a third of a state is left; p90 is the slowest tenth of units"),
        "spectral_radius/": ("spectral radius", "1 per step", "above 1 the recurrent matrix makes things grow"),
        "lyapunov/": ("Lyapunov exponent", "1 per step", "above 0 nearby states part, below 0 they are forgotten"),
        "past_use/steps": ("past in use", steps_word, "exchanging what is older changes the loss by under 1 %"),
        "series_share/largest": ("largest series' share", "of 1", "one series alone makes this part of the gradient"),
        "update_ratio/": ("update ratio", "of the weights' size", "change by one step; about 10⁻³ is usual"),
    }
    rows = []
    for prefix, (label, unit, meaning) in quantities.items():
        for name in readings.names(prefix):
            value = readings.last(name)
            if value is not None and (prefix.endswith("/") or name == prefix):
                layer = name.removeprefix(prefix).replace("stack", "whole network") if prefix.endswith("/") else ""
                rows.append((label, layer, ratio_text(value), unit, meaning))
    if evidence.data is not None:
        ratio = ratio_text(evidence.data.channel_ratio)
        rows.append(("channels' sizes", "", ratio, "largest over smallest", "what the network reads should be of like size"))
        rows.append(("outliers", "", ratio_text(evidence.data.outlier_ratio), "interquartile ranges", "the largest 0.1 % of values"))
    return rows


def _glossary() -> str:
    return "<dl>" + "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in GLOSSARY.items()) + "</dl>"
