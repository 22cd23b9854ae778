"""Healing: which remedy is tried next, what is kept, and when it ends."""

from __future__ import annotations

import math
from typing import Any

from training.gradients.verdict import Finding, Remedy, Verdict, VerdictName
from training.healing import Attempt, Budget, Plan, heal

BUDGET = Budget(attempts=4)


def verdict(name: VerdictName, *settings: dict[str, Any]) -> Verdict:
    """A verdict whose one finding offers these settings, in this order."""
    remedies = tuple(Remedy(why="it may help", set=change) for change in settings)
    severity = "info" if name == "healthy" else "fault"
    finding = Finding(
        rule=f"{name}_rule", severity=severity, where="lstm.0", step=1, value=0.0, threshold=1.0, message=".",
        remedies=remedies,
    )  # fmt: skip
    return Verdict(verdict=name, findings=(finding,))


def attempt(error: float, judged: Verdict, plan: Plan | None = None) -> Attempt:
    """An attempt with this validation error."""
    settings = plan.settings if plan else {}
    remedy = plan.remedy if plan else Remedy(why="asked")
    return Attempt(settings, remedy, plan.rule if plan else "", judged, error, error, 1.0)


def test_remedies_are_tried_in_order_and_the_first_that_heals_ends_the_search() -> None:
    """The second remedy heals: the third is never run, the second is kept."""
    asked = attempt(1.0, verdict("vanishing", {"a.x": 1}, {"a.x": 2}, {"a.x": 3}))
    outcomes = {1: attempt(1.2, verdict("vanishing")), 2: attempt(0.5, verdict("healthy"))}
    plans: list[Plan] = []

    def run(plan: Plan) -> Attempt:
        plans.append(plan)
        made = outcomes[plan.settings["a.x"]]
        return attempt(made.val_error, made.verdict, plan)

    healing = heal(asked, run, BUDGET, lambda _sentence: None)
    assert [plan.settings for plan in plans] == [{"a.x": 1}, {"a.x": 2}]
    assert healing.kept == 2
    assert healing.is_healed
    assert plans[0].rule == "vanishing_rule"


def test_a_remedy_that_helps_without_healing_is_built_upon() -> None:
    """The next plan holds the settings that helped and the new finding's remedy."""
    asked = attempt(1.0, verdict("bad_scale", {"model.scaler": "standard"}))
    seen: list[dict[str, Any]] = []

    def run(plan: Plan) -> Attempt:
        seen.append(plan.settings)
        if len(seen) == 1:
            return attempt(0.8, verdict("vanishing", {"model.initialization": "chrono"}), plan)
        return attempt(0.4, verdict("healthy"), plan)

    healing = heal(asked, run, BUDGET, lambda _sentence: None)
    assert seen[1] == {"model.scaler": "standard", "model.initialization": "chrono"}
    assert healing.best.val_error == 0.4


def test_what_does_not_lower_the_validation_error_is_not_kept() -> None:
    """Reach is not accuracy: the run that was asked for stays, and the path is still reported."""
    asked = attempt(1.0, verdict("vanishing", {"a.x": 1}, {"a.x": 2}))
    healing = heal(asked, lambda plan: attempt(1.3, verdict("healthy"), plan), BUDGET, lambda _sentence: None)
    assert healing.kept == 0
    assert not healing.is_healed
    assert len(healing.attempts) == 3


def test_the_budget_of_attempts_is_kept() -> None:
    """Five remedies and a budget of two: two child runs."""
    asked = attempt(1.0, verdict("vanishing", *({"a.x": number} for number in range(5))))
    ran: list[Plan] = []

    def run(plan: Plan) -> Attempt:
        ran.append(plan)
        return attempt(2.0, verdict("vanishing"), plan)

    heal(asked, run, Budget(attempts=2), lambda _sentence: None)
    assert len(ran) == 2


def test_no_settings_are_tried_twice() -> None:
    """A child that proposes what was tried already ends the search."""
    asked = attempt(1.0, verdict("vanishing", {"a.x": 1}))
    ran: list[Plan] = []

    def run(plan: Plan) -> Attempt:
        ran.append(plan)
        return attempt(0.9 / len(ran), verdict("vanishing", {"a.x": 1}), plan)

    healing = heal(asked, run, BUDGET, lambda _sentence: None)
    assert len(ran) == 1
    assert healing.kept == 1
    assert not healing.is_healed


def test_a_failed_attempt_is_reported_without_numbers() -> None:
    """Infinity has no JSON: the document says null, the table a dash."""
    asked = attempt(math.inf, verdict("non_finite", {"fit.max_grad_norm": 1.0}))
    healing = heal(asked, lambda plan: attempt(0.7, verdict("healthy"), plan), BUDGET, lambda _sentence: None)
    document = healing.to_dict()
    assert document["healed"]
    assert document["attempts"][0]["val_error"] is None
    assert document["attempts"][1]["set"] == {"fit.max_grad_norm": 1.0}
    assert "| non_finite | - | - |" in healing.to_markdown()
    assert "**kept**" in healing.to_markdown().splitlines()[-1]
