"""Sentences for people who never heard of a gradient: the numbers in them are the numbers given."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import get_args

import pytest

from tests.integration.review.example_run import build_evidence, build_settings, build_verdict
from training.config import load_config
from training.gradients.evidence import Outcome
from training.gradients.verdict import Remedy, Verdict, VerdictName
from training.report.words import (
    Unit,
    arrival_sentence,
    collect_remedies,
    explanation,
    headline,
    one_part_in,
    outcome_sentence,
    ratio_text,
    remedy_command,
)

HOUR = Unit.of("h")


@pytest.fixture
def evidence():
    return build_evidence(build_settings())


@pytest.mark.parametrize(
    ("freq", "text"),
    [("h", "5 hours"), ("D", "5 days"), ("MS", "5 months"), ("W-MON", "5 weeks"), ("1", "5 steps"), ("30min", "5 steps"),
     (None, "5 steps"), ("nonsense", "5 steps"), ("1h", "5 hours")],
)  # fmt: skip
def test_a_step_has_the_name_of_its_length(freq, text):
    """Hours, days and months are called so; what has no word of its own is a step."""
    assert Unit.of(freq).count(5) == text


def test_one_is_singular_and_odd_steps_say_how_long_they_are():
    """One hour is not one hours; half-hours are steps of 30 minutes."""
    assert HOUR.count(1) == "1 hour"
    assert HOUR.count(1234) == "1,234 hours"
    assert Unit.of("30min").note == "1 step = 30 minutes"


def test_the_headline_of_a_short_reach_names_both_numbers(evidence):
    """A person who never heard of a Jacobian reads how much the network is told of what it needs."""
    verdict = Verdict(verdict="vanishing", reach_steps=31, need_steps=168)
    assert headline(verdict, evidence, HOUR) == "The network is told about only the last 31 of the 168 hours it needs."


def test_a_reach_that_came_late_is_told_as_it_was(evidence):
    """Where the end reaches the need but the training as a whole did not, the headline says so."""
    verdict = Verdict(verdict="vanishing", reach_steps=168, need_steps=168)
    sentence = headline(verdict, evidence, HOUR, typical_reach=16)
    assert (
        sentence == "For most of its training, the network was told about only the last 16 of the 168 hours it needs."
    )
    assert "beyond 16 hours" in explanation(verdict, evidence, HOUR, typical_reach=16)
    assert headline(verdict, evidence, HOUR) == "The network learned too little from what lies 168 hours back."
    assert "During part of this training" in explanation(verdict, evidence, HOUR)
    assert "arrives everywhere" not in explanation(verdict, evidence, HOUR)


def test_of_a_mean_with_a_linear_map_it_is_the_recurrence_that_is_told(evidence):
    """The map may see more than the recurrence, and needs no gradient through time for it."""
    verdict = Verdict(verdict="healthy", reach_steps=48)
    settings = {"model.linear_share": 0.5, "model.recurrent_length": 48}
    mean = evidence.model_copy(update={"settings": evidence.settings | settings})
    assert "everywhere in the 48 hours the recurrence is shown" in explanation(verdict, mean, HOUR)
    short = verdict.model_copy(update={"reach_steps": 20})
    assert "can teach the recurrence anything" in explanation(short, mean, HOUR)
    assert "can teach the network anything" in explanation(short, evidence, HOUR)


def test_a_short_context_is_told_in_steps_shown(evidence):
    """`window_too_short` compares what is shown, truncation included, with the need."""
    verdict = Verdict(verdict="window_too_short", need_steps=336)
    assert "the last 168 of the 336 hours" in headline(verdict, evidence, HOUR)
    truncated = evidence.model_copy(update={"settings": evidence.settings | {"fit.tbptt_steps": 48}})
    assert "the last 48 of the 336 hours" in headline(verdict, truncated, HOUR)


def test_a_healthy_run_with_short_reach_is_not_scolded(evidence):
    """Good forecasts with a short reach are healthy, and both are said."""
    verdict = Verdict(verdict="healthy", reach_steps=31, need_steps=168)
    sentence = headline(verdict, evidence, HOUR)
    assert sentence.startswith("The forecasts hold up, although")
    assert "31 of the 168 hours" in sentence


@pytest.mark.parametrize("name", get_args(VerdictName))
def test_every_verdict_has_a_sentence_without_jargon(evidence, name):
    """Whatever the verdict, with or without numbers, the headline is one sentence without technical terms."""
    for reach, need in ((None, None), (10, 168), (168, 168), (0, 24)):
        sentence = headline(Verdict(verdict=name, reach_steps=reach, need_steps=need), evidence, HOUR)
        assert sentence.endswith(".")
        assert not any(word in sentence.lower() for word in ("jacobian", "gradient", "none of none", "none hours"))


def test_the_outcome_is_held_against_the_best_simple_method():
    """The comparison names the best baseline and by how much the network differs from it."""
    outcome = Outcome(metric="mase", val_error=1.4, baseline_error={"naive": 2.0, "seasonal_naive": 0.7}, step=1)
    sentence = outcome_sentence(outcome)
    assert "1.4 (MASE), 100% higher than that of the best simple method, repeating the last season (0.7)" in sentence
    better = outcome.model_copy(update={"val_error": 0.35})
    assert "50% lower" in outcome_sentence(better)
    assert outcome_sentence(outcome.model_copy(update={"val_error": math.inf})) == "Its forecasts are no numbers."
    assert outcome_sentence(None) == ""


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(2e-9, "2·10⁻⁹"), (2.34e-9, "2.3·10⁻⁹"), (1e-3, "10⁻³"), (0.42, "0.42"), (1.0, "1"), (0.0, "0"), (1e4, "10⁴"),
     (math.inf, "∞"), (math.nan, "unknown"), (123.4, "123"), (-0.05, "-0.05")],
)  # fmt: skip
def test_ratios_are_written_as_people_write_them(ratio, text):
    """Powers of ten where they help, and zero only for zero."""
    assert ratio_text(ratio) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(2e-9, "1 part in 500 million"), (1 / 2500, "1 part in 2.5 thousand"), (0.5, ""), (1e-40, "next to nothing")],
)
def test_small_ratios_are_told_as_parts(ratio, text):
    """Two billionths are one part in 500 million."""
    assert one_part_in(ratio) == text


def test_what_arrives_is_told_for_every_size():
    """All of it, a small part of it, or more than was sent."""
    assert arrival_sentence(1.3, 168, HOUR) == "All of the correction arrives 168 hours back."
    assert (
        arrival_sentence(2e-9, 168, HOUR) == "2·10⁻⁹ of the correction arrives 168 hours back: 1 part in 500 million."
    )
    assert "grows 10⁵-fold" in arrival_sentence(1e5, 168, HOUR)


def test_a_remedy_is_a_command_that_sets_exactly_what_it_says():
    """Pasted into a shell, the command's settings are those of the remedy, whatever characters are in them."""
    remedy = build_verdict().findings[0].remedies[1]
    words = shlex.split(remedy_command(remedy, Path("runs/my run/config.yaml")))
    assert words[:4] == ["gradcast", "train", "--config", "runs/my run/config.yaml"]
    config = load_config(None, [word for word in words[4:] if word != "--set"])
    assert config.fit.max_grad_norm is None
    assert config.tracking.run_name == "a <b> & 'c'"


def test_a_list_survives_the_command_line():
    """Values that are no plain words are written as YAML reads them."""
    remedy = Remedy(why="", set={"data.futr_exog": ["temp", "is_holiday"], "model.dropout": 0.1, "fit.compile": False})
    words = shlex.split(remedy_command(remedy, None))
    config = load_config(None, [word for word in words[2:] if word != "--set"])
    assert config.data.futr_exog == ("temp", "is_holiday")
    assert config.model.dropout == 0.1
    assert config.fit.compile is False


def test_remedies_of_faults_come_first_and_once():
    """A warning's remedies are shown only where there is no fault, and the same settings only once."""
    verdict = build_verdict()
    fault, info = verdict.findings
    twice = verdict.model_copy(update={"findings": (fault, fault, info)})
    assert [remedy.set for _, remedy in collect_remedies(twice)] == [remedy.set for remedy in fault.remedies]
    warning = fault.model_copy(update={"severity": "warning", "remedies": fault.remedies[:1]})
    assert len(collect_remedies(verdict.model_copy(update={"findings": (warning,)}))) == 1
    assert collect_remedies(verdict.model_copy(update={"findings": (info,)})) == []
