"""Updates and learning rates against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from training.config import OptimizerConfig
from training.optimizers import LearningRateSchedule, build_optimizer


def steps_on_a_line(config: OptimizerConfig, count: int) -> float:
    """Where a weight that starts at 0 is after `count` updates with a constant gradient of 1."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = build_optimizer(config, [weight], torch.device("cpu"))
    for _ in range(count):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return weight.item()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (OptimizerConfig(name="sgd", learning_rate=0.1), -0.2),
        (OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.9), -(0.1 + 0.19)),
        # Nesterov looks ahead: (1 + 0.9) then (1.9 * 0.9 + 1), each times the rate.
        (OptimizerConfig(name="nesterov", learning_rate=0.1, momentum=0.9), -(0.19 + 0.271)),
        (OptimizerConfig(name="adam", learning_rate=0.1), -0.2),
        (OptimizerConfig(name="adamw", learning_rate=0.1), -0.2),
        # Adagrad divides by the root of the sum of squares: 1, then 1 / sqrt(2).
        (OptimizerConfig(name="adagrad", learning_rate=0.1), -(0.1 + 0.1 / 2**0.5)),
        # RMSprop: square average 0.01, then 0.0199.
        (OptimizerConfig(name="rmsprop", learning_rate=0.1), -(0.1 / 0.01**0.5 + 0.1 / 0.0199**0.5)),
    ],
)
def test_two_updates_land_where_the_formula_says(config: OptimizerConfig, expected: float) -> None:
    """Two steps down a straight slope."""
    assert steps_on_a_line(config, 2) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["nadam", "radam"])
def test_every_named_optimizer_goes_downhill(name: str) -> None:
    """Constant gradient 1: the weight falls."""
    assert steps_on_a_line(OptimizerConfig(name=name, learning_rate=0.1), 10) < 0


def test_warm_up_rises_linearly_to_the_rate() -> None:
    """Rate 1 after 4 warm-up steps: 0.2, 0.4, 0.6, 0.8, 1."""
    schedule = LearningRateSchedule(OptimizerConfig(learning_rate=1.0, warmup_steps=4), 10)
    assert [schedule.rate(step) for step in range(1, 7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_falls_from_top_to_a_hundredth() -> None:
    """Half-way down at half of the budget."""
    schedule = LearningRateSchedule(OptimizerConfig(learning_rate=1.0, schedule="cosine"), 101)
    assert schedule.rate(1) == pytest.approx(1.0)
    assert schedule.rate(51) == pytest.approx((1 + 0.01) / 2)
    assert schedule.rate(101) == pytest.approx(0.01)


def test_one_cycle_peaks_at_three_tenths() -> None:
    """Starts at 1/25, tops at 30 % of the budget, ends at 1e-4."""
    schedule = LearningRateSchedule(OptimizerConfig(learning_rate=1.0, schedule="one_cycle"), 101)
    rates = [schedule.rate(step) for step in range(1, 102)]
    assert rates[0] == pytest.approx(0.04)
    assert max(range(101), key=rates.__getitem__) == 30
    assert rates[-1] == pytest.approx(1e-4)


def test_plateau_halves_after_three_checks_without_improvement() -> None:
    """Two bad checks are patience, the third one halves."""
    schedule = LearningRateSchedule(OptimizerConfig(learning_rate=1.0, schedule="plateau"), 100)
    seen = []
    for loss in (1.0, 1.1, 1.1, 1.1, 1.1):
        schedule.observe(loss)
        seen.append(schedule.rate(50))
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5]
