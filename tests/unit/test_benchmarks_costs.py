"""What the cost curves are extrapolated with: a model that finds known coefficients, and arithmetic worked by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def costs() -> Iterator[ModuleType]:
    """A script beside the packages; forgotten again afterwards."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield import_module("cost_extrapolation")
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("cost_extrapolation", None)


def point(series: int = 100, rows: int = 1000, context: int = 96, hidden: int = 64, layers: int = 1) -> dict[str, float]:
    """Costs of a machine made up for the purpose."""
    weights = hidden**2 * (2 * layers - 1)
    return {
        "series": series, "rows": rows, "context": context, "hidden": hidden, "layers": layers,
        "step_processor": 0.01 + 1e-8 * context * hidden**2 * layers, "prepare_processor": 0.1 + 1e-6 * series * rows,
        "peak_bytes": 5e8 + 10 * series * rows + 3000 * context * hidden * layers + 200 * weights,
        "disk_bytes": 1e6 + 5 * series * min(rows, context) + 100 * weights,
    }  # fmt: skip


def test_known_costs_are_found_and_carried_beyond_what_was_measured(costs: ModuleType) -> None:
    """Points along one axis at a time tell what a run larger along all of them takes."""
    one_at_a_time = [
        point(), *(point(series=n) for n in (10, 1000, 3000)), *(point(rows=n) for n in (300, 3000, 10_000)),
        *(point(context=n) for n in (48, 192, 336)), *(point(hidden=n) for n in (32, 128, 256)),
        *(point(layers=n) for n in (2, 3, 4)),
    ]  # fmt: skip
    model = costs.CostModel.fit(one_at_a_time)
    table, worst = costs.check_held_out(model, point(20_000, 5000, 500, 512, 3))
    assert worst < 0.01
    assert "20,000 series x 5,000 rows, 3 x 512 units, context 500" in table
    assert all(coefficient >= 0 for part in vars(model).values() for coefficient in part)


def test_a_billion_series_are_a_thousand_shards(costs: ModuleType) -> None:
    """By hand: ten windows of each in steps of 64 at 0.064 s; 10^6 s per shard for 10^9 rows; forecasts at 10^4 per second."""
    model = costs.CostModel(
        step=(0.064, 0, 0, 0, 0), prepare=(0, 0, 1e-3), memory=(5e8, 0, 10, 0, 0), disk=(1e6, 0, 0)
    )  # fmt: skip
    found = costs.simulate(model, costs.Scale(10**9), series_bytes=2000, windows_per_processor_second=10_000)
    hour = 3600
    assert found["shards"] == 1000
    assert found["fit_hours"] * hour == pytest.approx(10**7)
    assert found["prepare_hours"] * hour == pytest.approx(1000 * 10**6)
    assert found["shard_bytes"] == pytest.approx(10.5e9)
    assert found["shard_mapped_bytes"] == pytest.approx(0.5e9 + 1000 * 10 + 2e9)
    assert found["map_bytes"] == 5 * 10**12
    assert found["forecast_hours"] * hour == pytest.approx(10**5)


def test_bytes_of_a_mapped_series_leave_the_mapped_pages_out(costs: ModuleType) -> None:
    """A hundred series more hold 5,000 bytes more, 3,000 of them pages of the map."""
    few = {"series": 10, "peak_bytes": 1000, "map_bytes": 100}
    many = {"series": 110, "peak_bytes": 6000, "map_bytes": 3100}
    assert costs.bytes_per_mapped_series([few, many]) == 20.0
