"""The first screen of a report: the verdict in a sentence, and the past as a bar that fades with the gradient."""

from __future__ import annotations

import math
from html import escape

from training.gradients.rules.thresholds import VANISHING_WARNING
from training.gradients.verdict import Verdict
from training.report.page import tile
from training.report.review import RunReview
from training.report.words import NEED_SOURCES, explanation, headline, one_part_in, ratio_text

TONES = {"healthy": "good", "inconclusive": "unsure"}
STATUS_WORDS = {
    "finished": "finished",
    "running": "still running",
    "stopped": "stopped by the user",
    "failed": "ended by an error",
}


def hero(review: RunReview) -> str:
    """The first screen: verdict, its sentence, and how far the gradient reaches beside how far it should."""
    verdict, evidence, unit = review.verdict, review.evidence, review.unit
    notice = ""
    if review.is_preliminary:
        status = STATUS_WORDS[review.status].capitalize()
        drawn = f"the verdict was drawn from the checkpoint at step {evidence.step:,} and may change."
        notice = f'<p class="notice">{status}: {drawn}</p>'
    words = headline(verdict, evidence, unit, review.typical_reach)
    more = explanation(verdict, evidence, unit, review.typical_reach)
    return (
        f'<div class="hero {TONES.get(verdict.verdict, "bad")}">{badge(verdict)}<h1>{escape(words)}</h1>'
        f"<p>{escape(more)}</p>{notice}{_strip(review)}{_tiles(review)}</div>"
    )


def badge(verdict: Verdict) -> str:
    """The verdict's name as a label in its colour."""
    return f'<span class="badge">{escape(verdict.verdict.replace("_", " "))}</span>'


def _strip(review: RunReview) -> str:
    """The past as a bar that fades with the gradient, reach and need marked on it."""
    curve, need, typical = review.shown_curve, review.verdict.need_steps, review.typical_reach
    reach = review.verdict.reach_steps if typical is None else typical
    if not curve or reach is None:
        return ""
    context = max(curve)
    whole, unit = max(context, need or 0), review.unit
    stops = ", ".join(f"rgb(0 0 0 / {_opacity(ratio):.3f}) {100 * lag / context:.2f}%" for lag, ratio in curve.items())
    fill = (
        f'<div class="fill" style="width:{100 * context / whole:.2f}%"><div style="height:100%;background:var(--blue);'
        f'-webkit-mask-image:linear-gradient(to right, {stops});mask-image:linear-gradient(to right, {stops})"></div></div>'
    )
    verb = "reaches" if typical is None else "mostly reached"
    reached = "the correction arrives everywhere" if reach >= context else f"it {verb} back <b>{unit.count(reach)}</b>"
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
        tone = "" if not needed or review.typical_reach is not None else "bad" if short else "good"
        note = "at the last measurement"
        if review.typical_reach is not None:
            note += f"; over the training {unit.count(review.typical_reach)}"
        tiles.append(tile("reach: how far corrections get", unit.count(verdict.reach_steps), note, tone))
    if evidence.need is not None:
        tiles.append(
            tile(
                "need: how far back the data pays", unit.count(evidence.need.steps), NEED_SOURCES[evidence.need.source]
            )
        )
    ratio = review.ratio_at_need
    if (
        not math.isnan(ratio)
        and verdict.need_steps is not None
        and evidence.need is not None
        and evidence.need.is_shown
    ):
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
