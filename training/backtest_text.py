"""A backtest as text for a terminal: scores, intervals, steps ahead, series, and what is more than chance."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from training.backtest_tables import per_horizon_table, per_series_table
from training.diebold_mariano import describe_test
from training.intermittent import INTERMITTENT_METRICS
from training.metrics import central_intervals

if TYPE_CHECKING:
    from training.backtest import BacktestResult

UNITS = {"smape": "0-200", "mase": "1", "rmsse": "1", "wql": "1"} | dict.fromkeys(INTERMITTENT_METRICS, "1")
MAX_STEP_ROWS = 8
MAX_SERIES_ROWS = 10
# A bias has no best that is the lowest.
SIGNED = ("scfe", "spis")
INTERVAL_SCORES = ("coverage", "width", "msis")


def format_backtest(result: BacktestResult, digits: int = 3, model_name: str = "model") -> str:
    """The scores as a text table: the network beside the baselines, the best of each column starred, units named.

    Args:
        result: What to show.
        digits: Decimals of the dimensionless scores; columns of large numbers get fewer.
        model_name: What to call the network.

    Returns:
        Lines without a trailing newline. The last line says how the network compares with the best baseline.
    """
    scores = {model_name: result.metrics} | result.baselines
    names = [name for name in result.metrics if name.partition("_")[0] not in INTERVAL_SCORES]
    best = {name: _best(scores, name) for name in names}
    decimals = {name: _decimals(scores, name, digits) for name in names}
    cells = [["", *names], ["", *(_unit(name) for name in names)]]
    for row, values in scores.items():
        cells.append([row, *(_cell(values.get(name), row in best[name], decimals[name]) for name in names)])
    return "\n".join(
        [
            _headline(result),
            "",
            *_aligned(cells, heads=2),
            _legend(result),
            *_intervals(result, model_name, digits),
            *[describe_test(test, model_name, name) for name, test in result.tests.items()],
            _verdict(result, model_name),
        ]
    )


def format_steps(result: BacktestResult, model_name: str = "network") -> str:
    """MAE over the steps ahead, the network beside the baselines; neighbouring steps are averaged to a few rows."""
    table = per_horizon_table(result).to_pydict()
    columns = {model_name: table["mae"]} | {name: table[f"{name}_mae"] for name in result.baseline_forecasts}
    edges = np.unique(np.linspace(0, result.origins.horizon, MAX_STEP_ROWS + 1).round().astype(int))
    cells = [["steps ahead", *columns, *[name for name in table if name.startswith("coverage_")]]]
    for first, stop in itertools.pairwise(edges):
        label = f"{first + 1}" if stop == first + 1 else f"{first + 1}-{stop}"
        errors = [_mean(values[first:stop]) for values in columns.values()]
        shares = [_mean(table[name][first:stop]) for name in cells[0] if name.startswith("coverage_")]
        cells.append([label, *(_number(error) for error in errors), *(f"{share:.2f}" for share in shares)])
    return "\n".join([f"MAE by step ahead, in the unit of {result.panel.target}", *_aligned(cells)])


def format_series(result: BacktestResult) -> str:
    """Scores of the series that are forecast worst; empty for a single series."""
    table = per_series_table(result)
    if len(table) < 2:
        return ""
    rows = table.to_pylist()
    metric = "mase" if any(np.isfinite(row["mase"]) for row in rows) else "mae"
    worst = sorted(rows, key=lambda row: row[metric] if np.isfinite(row[metric]) else -np.inf, reverse=True)
    names = ["num_windows", "mae", "rmse", "mase", "wql"]
    cells = [["series", *names]]
    cells += [[_short(row["unique_id"]), *(_number(row[name]) for name in names)] for row in worst[:MAX_SERIES_ROWS]]
    return "\n".join([f"series by {metric}, worst first ({min(len(rows), MAX_SERIES_ROWS)} of {len(rows):,})", *_aligned(cells)])


def _intervals(result: BacktestResult, model_name: str, digits: int) -> list[str]:
    """One row per central interval of the network and of every baseline that has one."""
    percents = list(central_intervals(result.quantile_levels))
    if not percents:
        return []
    cells = [["intervals", "want", "coverage", "width", "msis"]]
    for row, scores in ({model_name: result.metrics} | result.baselines).items():
        for percent in percents if f"coverage_{percents[0]}" in scores else ():
            values = [scores[f"{name}_{percent}"] for name in INTERVAL_SCORES]
            share = f"{values[0]:.{digits}f}"
            want = f"want {float(percent) / 100.0:g}"
            cells.append([f"{row} {percent} %", want, share, *(_number(value) for value in values[1:])])
    return ["", *_aligned(cells), ""]


def _aligned(cells: Sequence[Sequence[str]], heads: int = 1) -> list[str]:
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]
    rule = "-" * len(lines[0])
    return [line.rstrip() for line in (*lines[:heads], rule, *lines[heads:], rule)]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if np.isfinite(value) else "undefined"


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"


def _best(scores: Mapping[str, Mapping[str, float]], metric: str) -> set[str]:
    """Rows with the lowest value; no winner where only the network is scored or nobody has a number."""
    values = {row: value[metric] for row, value in scores.items() if np.isfinite(value.get(metric, np.nan))}
    if len(values) < 2 or metric in SIGNED:
        return set()
    return {row for row, value in values.items() if value == min(values.values())}


def _unit(metric: str) -> str:
    return UNITS.get(metric, "unit of y")


def _decimals(scores: Mapping[str, Mapping[str, float]], metric: str, digits: int) -> int:
    """Decimals of a column: all of them below 10, fewer as the numbers grow."""
    largest = max((abs(v[metric]) for v in scores.values() if np.isfinite(v.get(metric, np.nan))), default=0.0)
    return digits if largest < 10.0 else max(digits + 2 - len(str(int(largest))), 0)


def _cell(value: float | None, is_best: bool, decimals: int) -> str:
    if value is None or not np.isfinite(value):
        return ("-" if value is None else "undefined") + " "
    return f"{value:,.{decimals}f}" + ("*" if is_best else " ")


def _headline(result: BacktestResult) -> str:
    origins = result.origins
    series = len(np.unique(origins.series))
    return (
        f"{origins.part}: {_count(len(origins), 'window')} of {series:,} series, horizon {origins.horizon} steps of "
        f"{result.panel.freq}, every {origins.step_size} steps; {int(result.observed.sum()):,} targets scored, "
        f"{int((~result.observed).sum()):,} missing; y = {result.panel.target}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _legend(result: BacktestResult) -> str:
    season = result.panel.season_length
    text = f"* best of its column; mase, rmsse: 1 = seasonal naive of {season} steps in the training rows"
    skipped = result.num_skipped_series
    text += f"; {skipped:,} series without a scale skipped there" if skipped else ""
    if "spl" not in result.metrics:
        return text
    few = int(result.demand.is_intermittent[np.unique(result.origins.series)].sum())
    return (
        f"{text}\nspl, scfe, spis, sapis: {few:,} intermittent series, in mean demands; scfe above 0 = too little "
        "forecast, spis above 0 = too much"
    )


def _verdict(result: BacktestResult, model_name: str) -> str:
    metric = "mase" if np.isfinite(result.metrics["mase"]) else "mae"
    rivals = {name: scores[metric] for name, scores in result.baselines.items() if scores[metric] > 0.0}
    own = result.metrics[metric]
    if not rivals or not np.isfinite(own):
        return f"{model_name}: {metric} {own:.3f}, nothing to compare with"
    rival = min(rivals, key=rivals.__getitem__)
    change = 100.0 * (own / rivals[rival] - 1.0)
    word = "below" if change < 0 else "above"
    return (
        f"{model_name}: {metric} {own:.3f}, {abs(change):.1f} % {word} the best baseline ({rival} {rivals[rival]:.3f})"
    )
