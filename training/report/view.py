"""A run's gradients as a program draws them: numbers, and the sentences that go with them, as one JSON document.

Written at every check of a training and at its end, so that whoever watches needs nothing but the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from training.gradients.verdict import Finding, Remedy
from training.report.flow import flow_map, layer_words, layers_of, spread_steps
from training.report.hero import TONES
from training.report.review import RunReview
from training.report.words import (
    BASELINE_WORDS,
    NEED_SOURCES,
    RULE_WORDS,
    arrival_sentence,
    collect_remedies,
    explanation,
    headline,
    outcome_sentence,
)

VIEW = "view.json"
SCHEMA = 1
MAX_POINTS = 240


def write_view(review: RunReview) -> None:
    """Replace the view of a run; a reader sees the old one or the new one."""
    path = review.path / "gradients" / VIEW
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".tmp")
    staging.write_text(json.dumps(build_view(review)), encoding="utf-8")
    staging.replace(path)


def build_view(review: RunReview) -> dict[str, Any]:
    """Everything that is drawn or said of one run; numbers that are none become null.

    Args:
        review: The run, finished or not.

    Returns:
        JSON values: facts, verdict with its sentences, findings with remedies, and the curves.
    """
    verdict, evidence, unit = review.verdict, review.evidence, review.unit
    typical, need = review.typical_reach, evidence.need
    model = review.config.model
    document = {
        "schema": SCHEMA,
        "name": review.name,
        "status": review.status,
        "is_preliminary": review.is_preliminary,
        "step": evidence.step,
        "max_steps": review.config.fit.max_steps,
        "best_step": evidence.best_step,
        "network": {
            key: getattr(model, key)
            for key in (
                "architecture", "num_layers", "hidden_size", "linear_share", "context_length", "recurrent_length", "horizon",
                "initialization",
            )
        },
        "unit": {"one": unit.one, "many": unit.many, "note": unit.note},
        "verdict": verdict.verdict,
        "tone": TONES.get(verdict.verdict, "bad"),
        "headline": headline(verdict, evidence, unit, typical),
        "explanation": explanation(verdict, evidence, unit, typical),
        "outcome_sentence": outcome_sentence(evidence.outcome),
        "outcome": _outcome(review),
        "reach_steps": verdict.reach_steps,
        "need_steps": verdict.need_steps,
        "typical_reach": typical,
        "ratio_at_need": review.ratio_at_need,
        "arrival_sentence": _arrival(review),
        "need": None if need is None else need.model_dump(mode="json") | {"source_words": NEED_SOURCES[need.source]},
        "findings": [_finding(finding) for finding in verdict.findings],
        "remedies": [_remedy(remedy, finding) for finding, remedy in collect_remedies(verdict)],
        "settings": {key: value for key, value in review.settings.items() if key.partition(".")[0] not in ("data", "tracking")},
        "flow": _flow(review),
        "norms": _all_series(review, "grad_norm/", ("total", *evidence.layers, "decoder", "head")),
        "reach": _all_series(review, "grad_reach/", review.layers),
        "losses": _all_series(review, "loss/", ("train", "val")),
    }  # fmt: skip
    finite: dict[str, Any] = _finite(document)
    return finite


def _flow(review: RunReview) -> dict[str, Any]:
    """What of the gradient arrives how far back: by layer and measured step, the decimal logarithm of the ratio by lag."""
    readings = review.readings
    layers: dict[str, Any] = {}
    for layer in layers_of(readings):
        steps, lags, decades = flow_map(readings, layer)
        chosen = [steps.index(step) for step in spread_steps(steps)]
        layers[layer] = {
            "label": layer_words(layer),
            "steps": [steps[place] for place in chosen],
            "lags": lags,
            "decades": [[round(float(value), 3) for value in decades[:, place]] for place in chosen],
        }
    return layers


def _all_series(review: RunReview, prefix: str, names: Sequence[str]) -> dict[str, Any]:
    found = {name: review.readings.series(prefix + name) for name in names}
    return {name: _thinned(steps, values) for name, (steps, values) in found.items() if steps}


def _thinned(steps: list[int], values: list[float]) -> dict[str, Any]:
    """At most as many points as a screen shows, the last one among them."""
    stride = max(1, math.ceil(len(steps) / MAX_POINTS))
    chosen = range((len(steps) - 1) % stride, len(steps), stride)
    return {"steps": [steps[i] for i in chosen], "values": [float(f"{values[i]:.6g}") for i in chosen]}


def _outcome(review: RunReview) -> dict[str, Any] | None:
    outcome = review.evidence.outcome
    if outcome is None:
        return None
    errors = {"this network": outcome.val_error} | {
        BASELINE_WORDS.get(name, name): error for name, error in outcome.baseline_error.items()
    }
    return {"metric": outcome.metric, "errors": errors}


def _arrival(review: RunReview) -> str:
    need, ratio = review.verdict.need_steps, review.ratio_at_need
    return "" if need is None or math.isnan(ratio) else arrival_sentence(ratio, need, review.unit)


def _finding(finding: Finding) -> dict[str, Any]:
    title = RULE_WORDS.get(finding.rule, finding.rule.replace("_", " "))
    remedies = [_remedy(remedy, finding) for remedy in finding.remedies]
    return finding.model_dump(mode="json") | {"title": title, "remedies": remedies}


def _remedy(remedy: Remedy, finding: Finding) -> dict[str, Any]:
    return {"why": remedy.why, "set": dict(remedy.set), "restart": remedy.restart, "rule": finding.rule}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
