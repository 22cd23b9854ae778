"""Readings: every quantity keeps its course, none grows without bound, and what is written is what is read."""

from __future__ import annotations

import itertools
from pathlib import Path

from training.gradients.readings import MAX_POINTS, Readings


def test_a_quantity_measured_rarely_keeps_all_of_its_points_beside_one_measured_always() -> None:
    """Thinning is by quantity: ten thousand losses do not cost a single lag curve."""
    readings = Readings()
    for step in range(1, 10_001):
        readings.add(step, {"loss/train": float(step)})
        if step % 100 == 0:
            readings.add(step, {"jacobian/lstm.0@24": step / 100})
    steps, values = readings.series("jacobian/lstm.0@24")
    assert steps == list(range(100, 10_001, 100))
    assert values == [step / 100 for step in steps]
    steps, values = readings.series("loss/train")
    assert MAX_POINTS / 2 <= len(steps) <= MAX_POINTS
    assert steps[0] == 1
    assert [float(step) for step in steps] == values
    assert len({after - before for before, after in itertools.pairwise(steps)}) == 1


def test_a_second_value_of_the_same_step_replaces_the_first() -> None:
    """One step has one value."""
    readings = Readings()
    readings.add(3, {"loss/val": 1.0})
    readings.add(3, {"loss/val": 2.0})
    assert readings.series("loss/val") == ([3], [2.0])


def test_a_lag_curve_is_read_at_its_last_step_or_at_a_named_one() -> None:
    """Names `<prefix>@<lag>` become lag to value, sorted by lag as numbers."""
    readings = Readings()
    readings.add(1, {"jacobian/lstm.0@12": 0.5, "jacobian/lstm.0@3": 1.0, "jacobian/lstm.01@3": 9.0})
    readings.add(100, {"jacobian/lstm.0@12": 0.25, "jacobian/lstm.0@3": 2.0})
    assert list(readings.curve("jacobian/lstm.0").items()) == [(3, 2.0), (12, 0.25)]
    assert readings.curve("jacobian/lstm.0", step=1) == {3: 1.0, 12: 0.5}
    assert readings.curve("jacobian/lstm.0", step=2) == {}


def test_thinning_continues_after_a_checkpoint_as_it_would_have_without(tmp_path: Path) -> None:
    """A document of half a run, read and continued, equals the whole run; parquet keeps every point."""
    whole, half = Readings(), Readings()
    for step in range(1, 5_001):
        whole.add(step, {"a/b": float(step)})
        if step <= 2_500:
            half.add(step, {"a/b": float(step)})
    resumed = Readings.from_dict(half.to_dict())
    for step in range(2_501, 5_001):
        resumed.add(step, {"a/b": float(step)})
    assert resumed.to_dict() == whole.to_dict()
    whole.write_parquet(tmp_path / "readings.parquet")
    read = Readings.read_parquet(tmp_path / "readings.parquet")
    assert read.series("a/b") == whole.series("a/b")
    assert read.names() == whole.names()
