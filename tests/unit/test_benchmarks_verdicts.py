"""The verdict benchmark: its bars, its labels and its intervals, on outcomes made up for the purpose."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "verdicts"
# The last four are not called here; that they still load is worth a test of its own.
NAMES = ("tasks", "changes", "cases", "outcomes", "intervals", "rivals", "verdict_store", "run", "score")


@pytest.fixture(scope="module")
def benchmark() -> dict[str, ModuleType]:
    """Its modules, which are scripts beside the packages; forgotten again afterwards, for their names are common."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


def make_outcome(benchmark, case, change, seed, error, failure=""):
    return benchmark["outcomes"].Outcome(
        case=case, change=change, seed=seed, changed={}, test_error=error, failure=failure, achievable=0.1, trivial=1.0,
        bar=0.55, fit_seconds=1.0, seconds=1.0,
    )  # fmt: skip


def test_every_task_has_its_bar_above_the_best_forecast_and_no_higher_than_a_little_above_learning_nothing(benchmark):
    """A bar outside that range would call everything solved, or nothing."""
    for task in benchmark["tasks"].TASKS.values():
        sample = task.sample(0)
        assert sample.achievable <= sample.bar
        assert sample.bar <= max(sample.trivial, 1.15 * sample.achievable) * (1 + 1e-12)


def test_a_task_draws_the_same_data_for_a_seed_and_other_data_for_another(benchmark):
    """Runs are compared across changes, so the data of a seed must not move."""
    task = benchmark["tasks"].TASKS["short_memory"]
    first, again, other = (task.sample(seed).table["y"].to_numpy() for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_benchmark_is_large_enough_and_half_of_it_is_meant_to_be_healthy(benchmark):
    """The issue asks for thirty configurations, with look-alikes."""
    cases = benchmark["cases"]
    assert len(cases.CASES) >= 36
    share = len(cases._LOOK_ALIKES) / len(cases.CASES)
    assert 0.4 <= share <= 0.6


def test_every_case_is_a_valid_configuration(benchmark):
    """A misspelt key would only be found in the night of the run."""
    from training.config import load_config

    for case in benchmark["cases"].CASES.values():
        settings = case.settings
        nulls = [f"{key}=null" for key, value in settings.items() if value is None]
        load_config(None, nulls, {key: value for key, value in settings.items() if value is not None})


def test_a_case_is_faulty_by_the_median_of_its_outcomes(benchmark):
    """One lucky or unlucky seed must not turn a label."""
    outcomes = benchmark["outcomes"]
    name = "chaos"
    errors = (0.2, 0.9, 0.9)
    runs = {(name, "base", seed): make_outcome(benchmark, name, "base", seed, error) for seed, error in enumerate(errors)}
    assert outcomes.is_faulty(runs, name)
    runs[name, "base", 1] = make_outcome(benchmark, name, "base", 1, 0.3)
    assert not outcomes.is_faulty(runs, name)


def test_a_failed_fit_is_never_solved(benchmark):
    """It has no error to compare."""
    assert not make_outcome(benchmark, "chaos", "base", 0, None, "loss is nan").is_solved


def test_the_cause_is_what_the_solving_change_says(benchmark):
    """Two of three seeds decide; a change that other faults respond to counts only where nothing else helps."""
    outcomes, name = benchmark["outcomes"], "high-level-unscaled"
    runs = {(name, "base", seed): make_outcome(benchmark, name, "base", seed, 0.9) for seed in range(3)}
    for change, errors in {"scaler": (0.2, 0.2, 0.9), "longer": (0.2, 0.2, 0.2), "clip": (0.2, 0.9, 0.9)}.items():
        runs |= {(name, change, seed): make_outcome(benchmark, name, change, seed, error) for seed, error in enumerate(errors)}
    assert outcomes.solving_changes(runs, name) == ["scaler", "longer"]
    assert outcomes.true_causes(runs, name) == {"bad_scale"}


@pytest.mark.parametrize(
    ("settings", "causes"),
    [
        ({"model.initialization": "torch"}, {"vanishing"}),
        ({"model.initialization": "orthogonal", "model.init_gain": 0.3}, {"vanishing"}),
        ({"model.initialization": "orthogonal", "model.init_gain": 4.0}, {"exploding", "saturated"}),
        ({"model.initialization": "identity", "model.init_gain": 1.6, "model.nonlinearity": "relu"}, {"exploding", "dead"}),
        ({"model.initialization": "forget_bias", "model.forget_bias": -3.0}, {"vanishing", "saturated"}),
    ],
)
def test_vanishing_and_exploding_are_told_apart_by_the_settings(benchmark, settings, causes):
    """The truth must not come from the signal that is being tested."""
    base = {"model.init_gain": None, "model.forget_bias": None, "model.nonlinearity": "tanh"}
    assert benchmark["changes"].recurrence_causes(base | settings) == causes


def test_a_change_that_changes_nothing_is_left_out(benchmark):
    """It would be run for nothing, and dilute the random remedy."""
    changes = benchmark["changes"]
    settings = {"fit.max_grad_norm": 1.0}
    assert changes.difference(changes.CHANGES["clip"], settings, {}) == {}


def test_an_interval_is_wider_in_clusters_than_among_independent_runs(benchmark):
    """Three seeds that always agree are one observation."""
    rate = benchmark["intervals"].rate
    clustered = rate([(str(index // 3), index // 3 % 2 == 0) for index in range(30)])
    independent = rate([(str(index), index // 3 % 2 == 0) for index in range(30)])
    assert clustered.value == independent.value == 0.5
    assert clustered.high - clustered.low > 1.3 * (independent.high - independent.low)


def test_a_rate_without_a_single_miss_still_has_an_interval(benchmark):
    """Wilson on ten of ten: 0.72 to 1."""
    rate = benchmark["intervals"].rate([(str(index), True) for index in range(10)])
    assert rate.value == 1.0
    assert rate.low == pytest.approx(0.7225, abs=1e-3)
