"""The gate before `champion`, on numbers worked by hand."""

from __future__ import annotations

import pytest

from training.errors import PromotionRefusedError
from training.tracking.promotion import Contender, PromotionPolicy, choose_key, is_same_backtest, judge

BASELINES = {
    "naive": {"val/mae": 4.0, "val/rmse": 5.0, "val/mase": 2.0},
    "seasonal_naive": {"val/mae": 2.0, "val/rmse": 2.5, "val/mase": 1.0},
}


def contender(version=2, verdict="healthy", mase=0.8, horizon=24, baselines=BASELINES):
    return Contender(version, verdict, horizon, {"val/mase": mase, "val/mae": 2 * mase if mase else None}, baselines)


DEFAULT = PromotionPolicy()


def decide(challenger, champion=None, policy=DEFAULT):
    return judge("bike", challenger, champion, policy)


def test_a_healthy_and_better_version_may_take_over():
    """Healthy, below seasonal naive, below the champion on equal windows: every rule is met."""
    decision = decide(contender(mase=0.8), contender(version=1, mase=0.9))
    assert decision.is_allowed
    assert decision.compared_by == "val/mase"
    assert decision.reasons == [
        "The verdict on its gradients is healthy.",
        "It is better than repeating the last season: val/mase 0.8 against 1.",
        "It is better than the champion, version 1: val/mase 0.8 against 0.9, on the same windows.",
    ]


@pytest.mark.parametrize(
    ("challenger", "reason"),
    [
        (contender(verdict="window_too_short"), "The verdict on its gradients is window too short."),
        (contender(mase=1.0), "It is not better than repeating the last season: val/mase 1 against 1."),
        (contender(mase=0.95), "It is not better than the champion, version 1: val/mase 0.95 against 0.9, on the same windows."),
        (contender(mase=0.9), "It is not better than the champion, version 1: val/mase 0.9 against 0.9, on the same windows."),
        (contender(horizon=48), "The two cannot be compared: it forecasts 48 steps, the champion, version 1, 24."),
    ],
)  # fmt: skip
def test_every_rule_can_refuse(challenger, reason):
    """What is not met comes first, in a sentence; equal is not better."""
    decision = decide(challenger, contender(version=1, mase=0.9))
    assert not decision.is_allowed
    assert decision.reasons[0] == reason


def test_the_first_healthy_version_needs_no_champion_to_beat():
    """Without a champion only verdict and baseline count."""
    assert decide(contender()).is_allowed
    assert not decide(contender(verdict="vanishing")).is_allowed


def test_other_windows_are_no_comparison():
    """A lower error on an easier stretch of time proves nothing: the baselines say that the windows differ."""
    other = {name: {key: value * 1.01 for key, value in scores.items()} for name, scores in BASELINES.items()}
    champion = contender(version=1, mase=0.9, baselines=other)
    assert not is_same_backtest(contender(), champion, "val/mase")
    decision = decide(contender(mase=0.5), champion)
    assert not decision.is_allowed
    assert decision.reasons[0].startswith("The two were scored on different windows.")


def test_a_policy_may_ask_for_a_margin():
    """Ten percent better than 0.9 is below 0.81."""
    policy = PromotionPolicy(min_improvement=0.1)
    champion = contender(version=1, mase=0.9)
    assert decide(contender(mase=0.80), champion, policy).is_allowed
    assert not decide(contender(mase=0.82), champion, policy).is_allowed


def test_the_test_part_and_the_policys_metric_go_first():
    """Errors on rows that nothing was selected on are preferred; an undefined metric falls back to the MAE."""
    metrics = {"val/mase": 0.7, "test/mase": 0.8, "test/mae": 3.0, "val/wql": 0.1}
    full = Contender(2, "healthy", 24, metrics, {})
    assert choose_key(full, PromotionPolicy()) == "test/mase"
    assert choose_key(full, PromotionPolicy("wql")) == "test/mae"
    assert choose_key(Contender(2, "healthy", 24, {"val/mase": float("nan")}, {}), PromotionPolicy()) is None


def test_what_was_never_scored_is_refused():
    """No number, no promotion; the error names the way around it."""
    decision = decide(Contender(2, "healthy", 24, {}, {}))
    assert not decision.is_allowed
    assert "--override" in str(PromotionRefusedError(decision))
