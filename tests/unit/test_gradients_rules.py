"""Rules: each fires on its signal with a bad outcome, and is information or silent without one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from training.config import load_config
from training.gradients.conclusion import RULES, conclude
from training.gradients.evidence import DataFacts, Evidence, NeedEvidence, Outcome
from training.gradients.readings import Readings
from training.gradients.verdict import Finding, Verdict

GOOD = {"naive": 1.0, "seasonal_naive": 0.9, "mean": 0.8, "linear": 0.5}
NEED = NeedEvidence(steps=48, source="ridge", is_shown=True, gain=0.3)


def outcome(error: float, **baselines: float) -> Outcome:
    """An outcome beside usual baselines."""
    return Outcome(metric="mase", val_error=error, baseline_error=GOOD | baselines, step=500)


def evidence(error: float = 0.45, **changes: Any) -> Evidence:
    """A run of 500 steps of an LSTM with usual settings."""
    settings = {
        "model.architecture": "lstm", "model.context_length": 96, "model.num_layers": 1, "model.scaler": "standard",
        "model.hidden_size": 64, "model.initialization": "torch", "fit.max_steps": 500, "fit.max_grad_norm": 1.0,
        "fit.tbptt_steps": None, "fit.precision": "float32", "optimizer.name": "adamw",
        "optimizer.learning_rate": 1e-3,
    } | changes.pop("settings", {})  # fmt: skip
    given: dict[str, Any] = {
        "settings": settings, "layers": ("lstm.0",), "need": NEED, "outcome": outcome(error), "step": 500,
        "data": DataFacts(level=0.7, spread=1.0, outlier_ratio=2.0, channel_ratio=3.0), "best_step": 500,
    }  # fmt: skip
    return Evidence(**(given | changes))


def readings(**series: list[float]) -> Readings:
    """Ordinary readings of a run of 500 steps; `a__b` stands for `a/b`, values are spread evenly over the run.

    The first of `before__a__b` is from before the first step.
    """
    usual = {
        "loss/train": [1.0 - 0.01 * min(index, 30) for index in range(50)],
        "loss/val": [0.9, 0.8, 0.72, 0.7, 0.7],
        "grad_norm/lstm.0": [0.3] * 50,
        "grad_norm/peak": [0.5 + 0.01 * (index % 7) for index in range(50)],
        "update_ratio/lstm.0": [1e-3] * 50,
        "grad_reach/ratio_at_need": [0.2, 0.3, 0.3, 0.3],
        "grad_reach/lstm.0": [96.0] * 4,
    }
    made = Readings()
    for name, values in (usual | {key.replace("__", "/"): value for key, value in series.items()}).items():
        is_from_start = name.startswith("before/")
        for index, value in enumerate(values, start=0 if is_from_start else 1):
            made.add(round(500 * index / len(values)), {name.removeprefix("before/"): value})
    return made


def fault(verdict: Verdict) -> Finding:
    """The finding the verdict rests on."""
    assert verdict.findings
    assert verdict.findings[0].severity == "fault"
    return verdict.findings[0]


BAD = 0.79  # 58 % above the linear model's 0.5

SIGNALS: dict[str, tuple[str, dict[str, Any], dict[str, list[float]]]] = {
    "vanishing_through_time": ("vanishing", {}, {"grad_reach__ratio_at_need": [1e-9, 1e-8, 1e-8, 1e-8]}),
    "exploding_through_time": ("exploding", {}, {"jacobian__lstm.0@96": [1e4, 1e5, 1e5, 1e6]}),
    "scale": ("bad_scale", {"data": DataFacts(level=900, spread=400, outlier_ratio=2, channel_ratio=2)}, {}),
    "window_too_short": ("window_too_short", {"settings": {"model.context_length": 24}}, {}),
    "update_ratio": ("bad_learning_rate", {}, {"update_ratio__lstm.0": [1e-7] * 50}),
    "clip_dominated": (
        "bad_learning_rate", {"settings": {"fit.max_grad_norm": 1e-6}},
        {"grad_clip__fraction": [1.0] * 50, "grad_clip__coefficient": [1e-6] * 50},
    ),
    "divergence": ("diverged", {}, {"loss__train": [1.0, 0.8] * 10 + [5.0] * 30}),
    "gradient_spike": ("exploding", {}, {"grad_norm__peak": [0.5, 0.52, 0.48, 0.51] * 11 + [0.5, 50, 60, 0.5, 70, 80]}),
    "exploding_from_start": (
        "exploding", {}, {"before__jacobian__lstm.0@96": [1e4, 3, 3, 3], "update_ratio__lstm.0": [0.9] * 50},
    ),
    "stuck_from_start": (
        "saturated", {}, {"before__state__lstm.0.saturated": [0.9, 0.2, 0.2], "update_ratio__lstm.0": [0.9] * 50},
    ),
    "vanishing_through_depth": (
        "vanishing", {"layers": ("lstm.0", "lstm.1", "lstm.2")}, {"before__grad_depth__lstm.0": [0.01, 0.02, 0.02]},
    ),
    "dead_decoder": ("dead", {}, {"state__decoder.dead": [0.2, 0.9, 0.95, 0.96]}),
    "dead_units": ("dead", {}, {"state__rnn.0.dead": [0.2, 0.9, 0.95, 0.96]}),
    "untrained_parameter": ("untrained_parameter", {}, {"grad_norm__head": [0.0] * 50}),
    "gate_stuck": ("saturated", {}, {"gate__lstm.0.input.saturated": [0.7, 0.8, 0.8, 0.8]}),
    "state_saturation": ("saturated", {}, {"state__lstm.0.saturated": [0.7, 0.8, 0.8, 0.8]}),
    "overfitting": (
        "overfitting", {}, {"loss__val": [0.9, 0.5, 0.6, 0.7, 0.8, 0.9], "loss__train": [1 - i / 60 for i in range(50)]},
    ),
    "layer_imbalance": (
        "vanishing", {"layers": ("lstm.0", "lstm.1")},
        {"grad_norm__lstm.0": [1e-6] * 50, "grad_norm__lstm.1": [1.0] * 50, "weight_norm__lstm.0": [9.0] * 50,
         "weight_norm__lstm.1": [9.0] * 50},
    ),
}  # fmt: skip
# Two rules may find the same thing at different times or places.
FINDINGS = {
    "exploding_from_start": "exploding_through_time", "stuck_from_start": "state_saturation", "dead_decoder": "dead_units",
}  # fmt: skip


@pytest.mark.parametrize("rule", SIGNALS)
def test_a_signal_with_a_bad_outcome_is_a_fault_with_number_skill_and_remedy(rule: str) -> None:
    """Verdict and first finding name the cause; the sentence holds the skill, the remedy settings to apply."""
    name, changes, series = SIGNALS[rule]
    verdict = conclude(evidence(BAD, **changes), readings(**series))
    assert verdict.verdict == name
    finding = fault(verdict)
    assert finding.rule == FINDINGS.get(rule, rule)
    assert "58% above that of a linear model" in finding.message
    assert finding.remedies[0].set


@pytest.mark.parametrize("rule", SIGNALS)
def test_the_same_signal_with_a_good_outcome_is_no_fault(rule: str) -> None:
    """Signal alone is information: the verdict is healthy."""
    _, changes, series = SIGNALS[rule]
    verdict = conclude(evidence(0.45, **changes), readings(**series))
    assert verdict.verdict == "healthy"
    assert FINDINGS.get(rule, rule) in {finding.rule for finding in verdict.findings}
    assert {finding.severity for finding in verdict.findings} <= {"info"}


def test_every_rule_of_the_table_has_been_asked() -> None:
    """Each rule appears in one of the tests of this file or in one below by its own name."""
    named = {*SIGNALS, "oscillation", "static_memory", "precision", "never_learned"}
    assert {rule.__name__ for rule in RULES} == named


def test_a_quiet_run_has_no_findings_at_all() -> None:
    """Nothing to say about a healthy run: no signal, no sentence."""
    verdict = conclude(evidence(), readings())
    assert verdict == Verdict(verdict="healthy", reach_steps=96, need_steps=48, findings=())


def test_evidence_and_verdict_survive_being_written_also_where_a_number_is_infinite() -> None:
    """A fit that failed has an infinite error, an explosion an infinite ratio; JSON knows neither as a number."""
    failed = evidence(math.inf)
    assert Evidence.model_validate_json(failed.model_dump_json()) == failed
    verdict = conclude(failed, readings(**{"jacobian__lstm.0@96": [math.inf] * 4}))
    assert verdict.findings[0].value == math.inf
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_without_an_outcome_nothing_is_called_a_fault() -> None:
    """Signals become warnings, and the verdict is inconclusive."""
    verdict = conclude(evidence(outcome=None), readings(grad_reach__ratio_at_need=[1e-9] * 4))
    assert verdict.verdict == "inconclusive"
    assert [finding.severity for finding in verdict.findings] == ["warning"]


def test_short_reach_is_no_fault_where_the_need_is_not_shown() -> None:
    """A need that a linear model gains nothing from is not held against the run."""
    need = NeedEvidence(steps=48, source="ridge", is_shown=False, gain=0.01)
    verdict = conclude(evidence(BAD, need=need), readings(grad_reach__ratio_at_need=[1e-9] * 4))
    assert verdict.verdict == "not_learning"
    assert "vanishing_through_time" not in {finding.rule for finding in verdict.findings}


def test_a_single_measurement_confirms_nothing() -> None:
    """Two confirmations: one look at the Jacobian, and one at dead units, is none."""
    verdict = conclude(evidence(BAD), readings(grad_reach__ratio_at_need=[1e-9], state__decoder__dead=[0.9]))
    assert verdict.verdict == "not_learning"


def test_white_noise_is_healthy_though_the_gradient_is_short() -> None:
    """No forecast beats the mean, the model does as well as the mean, nothing pays: healthy."""
    baselines = {"naive": 1.41, "seasonal_naive": 1.41, "mean": 1.0, "linear": 1.02}
    good = Outcome(metric="mase", val_error=1.01, baseline_error=baselines, step=500)
    need = NeedEvidence(steps=1, source="ridge", is_shown=False)
    verdict = conclude(evidence(outcome=good, need=need), readings(grad_reach__ratio_at_need=[1.0] * 4))
    assert verdict.verdict == "healthy"


def test_a_declared_need_without_any_gain_over_trivial_forecasts_is_a_fault() -> None:
    """What no linear model can see, the user declares; a model no better than the mean has not learned it."""
    baselines = {"naive": 1.41, "seasonal_naive": 1.41, "mean": 1.0, "linear": 1.05}
    bad = Outcome(metric="mae", val_error=0.99, baseline_error=baselines, step=500)
    need = NeedEvidence(steps=30, source="declared", is_shown=True)
    verdict = conclude(evidence(outcome=bad, need=need), readings(grad_reach__ratio_at_need=[1e-5] * 4))
    assert verdict.verdict == "vanishing"
    assert "the need you declared" in fault(verdict).message
    assert "MAE of 0.99 is 1% below that of the mean of the window" in fault(verdict).message


def test_the_vanishing_sentence_quotes_lag_ratio_half_life_gain_and_skill() -> None:
    """One sentence carries number, need and skill."""
    series = {"grad_reach__ratio_at_need": [2e-9] * 4, "half_life__lstm.0": [5.8] * 4}
    finding = fault(conclude(evidence(BAD, past_gain=0.001), readings(**series)))
    assert finding.message == (
        "At lag 48, the need of your data, nothing that float32 could add is left; its half-life is 5.8 steps; a linear "
        "model gains 30% from what lies back there, this one nothing; its validation MASE of 0.79 is 58% above that of "
        "a linear model (0.5)."
    )
    assert finding.remedies[0].set == {"model.initialization": "chrono"}


def test_a_cause_speaks_before_its_consequences() -> None:
    """A rate that throws weights about also kills units and loses the gradient: the rate is the verdict."""
    series = {
        "update_ratio__lstm.0": [0.9] * 10 + [1e-9] * 40,
        "state__decoder.dead": [0.9] * 4,
        "grad_reach__ratio_at_need": [0.0] * 4,
    }
    verdict = conclude(evidence(BAD, settings={"optimizer.learning_rate": 3.0}), readings(**series))
    assert verdict.verdict == "bad_learning_rate"
    assert {"dead_units", "vanishing_through_time"} <= {finding.rule for finding in verdict.findings}


def test_a_linear_model_with_a_longer_context_is_what_a_short_window_is_held_against() -> None:
    """The baseline sees no more than the network; the regression behind the need does, and shows what is missing."""
    blind = {"naive": 1.4, "seasonal_naive": 1.4, "mean": 1.0, "median": 1.0, "linear": 1.0}
    bad = Outcome(metric="mase", val_error=0.99, baseline_error=blind, step=500)
    need = NeedEvidence(steps=48, source="ridge", is_shown=True, gain=0.8, contexts=(0, 24, 48), errors=(0.8, 0.8, 0.16))
    verdict = conclude(evidence(outcome=bad, need=need, settings={"model.context_length": 24}), readings())
    assert verdict.verdict == "window_too_short"
    assert "above what a linear model with a context of 48 reaches (0.2)" in fault(verdict).message
    same = need.model_copy(update={"errors": (0.8, 0.8, 0.79)})
    assert conclude(evidence(outcome=bad, need=same, settings={"model.context_length": 24}), readings()).verdict == "healthy"


def test_a_recurrence_that_reads_less_than_the_context_is_what_must_see_the_need() -> None:
    """The rest of the context is the linear map's; the remedy gives the recurrence all of it."""
    settings = {"model.context_length": 64, "model.recurrent_length": 24}
    need = NeedEvidence(steps=48, source="declared", is_shown=True)
    verdict = conclude(evidence(BAD, need=need, settings=settings), readings())
    assert verdict.verdict == "window_too_short"
    assert "A context of 24 steps" in fault(verdict).message
    assert all(remedy.set["model.recurrent_length"] is None for remedy in fault(verdict).remedies)
    assert all("model.context_length" not in remedy.set for remedy in fault(verdict).remedies)


def test_a_nearly_perfect_linear_model_is_no_measure_to_the_percent() -> None:
    """Twenty percent above an error that is a hundredth of the trivial one is nothing to mend."""
    errors = {"naive": 9.0, "seasonal_naive": 9.0, "mean": 8.0, "linear": 0.1}
    good = Outcome(metric="mase", val_error=0.12, baseline_error=errors, step=500)
    assert conclude(evidence(outcome=good), readings()).verdict == "healthy"


def test_a_recurrence_that_plain_descent_does_not_move_is_a_rate_too_low() -> None:
    """The head moves, the LSTM does not: for plain gradient descent the slowest layer counts, for Adam the fastest."""
    series = {"update_ratio__lstm.0": [1e-6] * 50, "update_ratio__head": [3e-4] * 50}
    plain = conclude(evidence(BAD, settings={"optimizer.name": "sgd"}), readings(**series))
    assert plain.verdict == "bad_learning_rate"
    assert conclude(evidence(BAD), readings(**series)).verdict == "not_learning"


def test_a_remedy_that_changes_the_optimizer_is_a_configuration_that_loads() -> None:
    """AdamW has no momentum: whoever leaves plain gradient descent with momentum has to put it down."""
    settings = {"optimizer.name": "sgd", "optimizer.momentum": 0.9, "optimizer.learning_rate": 3.0}
    remedy = fault(conclude(evidence(BAD, settings=settings), readings(update_ratio__head=[0.9] * 50))).remedies[0]
    flags = {"data.path": "x.csv", **settings, **remedy.set}
    assert load_config(None, [], flags).optimizer.name == "adamw"


@pytest.mark.parametrize(("rate", "asked"), [(3.0, 0.005), (0.003, 0.001)])
def test_steps_that_are_too_large_are_made_smaller(rate: float, asked: float) -> None:
    """The usual rate, unless that would be larger than the one at fault."""
    settings = {"optimizer.learning_rate": rate, "optimizer.name": "adam"}
    found = fault(conclude(evidence(BAD, settings=settings), readings(update_ratio__head=[0.9] * 50)))
    assert found.rule == "update_ratio"
    assert found.remedies[0].set["optimizer.learning_rate"] == pytest.approx(asked)


def test_memory_built_too_late_is_a_vanished_gradient_all_the_same() -> None:
    """It reaches at the end, began with nothing, and the model uses less of the past than a linear one."""
    series = {"grad_reach__ratio_at_need": [1e-30, 0.2, 0.3, 0.3, 0.3, 0.3]}
    late = conclude(evidence(BAD, past_gain=0.2), readings(**series))
    assert late.verdict == "vanishing"
    assert "was left at the start" in fault(late).message
    assert conclude(evidence(BAD, past_gain=0.4), readings(**series)).verdict == "not_learning"


def test_truncation_shorter_than_the_need_is_cut_and_not_vanished() -> None:
    """The remedy lifts the truncation."""
    verdict = conclude(evidence(BAD, settings={"fit.tbptt_steps": 16}), readings(grad_reach__ratio_at_need=[1e-9] * 4))
    assert verdict.verdict == "window_too_short"
    assert fault(verdict).remedies[0].set["fit.tbptt_steps"] is None
    assert "vanishing_through_time" not in {finding.rule for finding in verdict.findings}


def test_oscillation_needs_many_turns_of_large_size() -> None:
    """Turns from point to point by half of the level are a rate too high; noise around it is not."""
    swinging = [1.0 if index % 2 else 1.9 for index in range(50)]
    noisy = [1.0 + 0.01 * ((index * 7) % 5 - 2) for index in range(50)]
    assert "oscillation" not in {
        finding.rule for finding in conclude(evidence(BAD), readings(loss__train=noisy)).findings
    }
    found = conclude(evidence(BAD), readings(loss__train=swinging)).findings
    assert "oscillation" in {finding.rule for finding in found}


def test_static_memory_warns_before_the_reach_is_known() -> None:
    """Time constants of 1.4 steps against a need of 48: a warning, no fault of its own."""
    found = conclude(evidence(BAD), readings(**{"memory__lstm.0.p90": [1.5] * 4})).findings
    (finding,) = (finding for finding in found if finding.rule == "static_memory")
    assert finding.severity == "warning"
    assert finding.value == 1.5
    assert math.isclose(finding.threshold, 4.8)


def test_zeros_in_half_precision_are_named_as_such() -> None:
    """In float32 a zero is a zero; in bfloat16 it may be a number too small to write."""
    series = {"jacobian__lstm.0@96": [0.0] * 4}
    half = conclude(evidence(BAD, settings={"fit.precision": "bfloat16"}), readings(**series)).findings
    full = conclude(evidence(BAD), readings(**series)).findings
    assert "precision" in {finding.rule for finding in half}
    assert "precision" not in {finding.rule for finding in full}


def test_never_learned_offers_more_steps_only_first_where_the_loss_still_falls() -> None:
    """A falling loss wants a longer budget; a plateau wants another change first."""
    falling = [1.0 - 0.015 * index for index in range(50)]
    first = fault(conclude(evidence(BAD, settings={"optimizer.learning_rate": 0.005}), readings(loss__train=falling)))
    assert first.rule == "never_learned"
    assert first.remedies[0].set == {"fit.max_steps": 1500}
    assert "still falling" in first.message
    flat = fault(conclude(evidence(BAD, settings={"model.scaler": "none"}), readings(loss__train=[1.0] * 50)))
    assert flat.remedies[0].set == {"model.scaler": "standard"}
