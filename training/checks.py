"""What to look at before believing a backtest: is the forecast flat, does a covariate know the answer, has the data moved?

Findings inform; nothing is changed by them, and no verdict rests on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from training.backtest import BacktestResult
from training.data.panel import Panel
from training.data.splits import Splits
from training.intermittent import INTERMITTENT_INTERVAL
from training.origins import Part

CHECKS = {
    "flat_forecast": "The forecast hardly moves over the horizon, and the data does.",
    "covariate_leak": "A covariate equals the target at a time that is not known yet: it gives the answer away.",
    "intermittent_demand": "Most series rest between demands, or lack most rows: what usually suits such data.",
    "level_shift": "Validation or test rows lie at another level than training rows ever did over as long a stretch.",
    "spread_shift": "Validation or test rows vary by twice or half of what training rows did over as long a stretch.",
    "origin_in_training": "The model was trained on rows that the backtest forecasts: its scores are too good.",
}
# Spread of the forecast over the horizon, relative to what happened, below which it is called flat.
FLAT_SHARE = 0.1
# A covariate that leaves this share of the target's change from step to step unexplained equals it.
LEAK_SHARE = 0.05
MAX_LEAD = 50
MAX_CHECK_SERIES, MAX_CHECK_ROWS = 20, 5000
# Stretches of training rows that a shift is judged by, and how far outside of them it must lie.
MIN_BLOCKS, SHIFT_DEVIATIONS, SPREAD_RATIO = 8, 3.0, 2.0
MIN_SHARE_OF_SERIES = 0.1


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        code: Key of `CHECKS`.
        severity: `warning`, or `info` where it may well be right so.
        where: Part of the data, or covariate.
        value: The measured number.
        threshold: What it was compared with.
        message: The sentence for the user.
    """

    code: str
    severity: Literal["info", "warning"]
    where: str
    value: float
    threshold: float
    message: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.severity} {self.code}: {self.message}"


def run_checks(
    panel: Panel, splits: Splits, backtests: Mapping[str, BacktestResult], trained_until: str = ""
) -> tuple[Check, ...]:
    """Everything there is to find about data and forecasts.

    Args:
        panel: The series.
        splits: Where training, validation and test rows end.
        backtests: By part.
        trained_until: Last timestamp that other weights than those of this training were trained on; empty = none.
    """
    return tuple(
        check
        for found in (
            *(check_flat_forecast(result, part) for part, result in backtests.items()),
            check_covariates(panel, splits),
            check_demand(panel, next(iter(backtests.values()))),
            *(check_trained_rows(result, trained_until) for result in backtests.values()),
            *(check_shift(panel, splits, result.origins.part) for result in backtests.values()),
        )
        for check in found
    )


def check_flat_forecast(result: BacktestResult, part: str) -> Iterator[Check]:
    """Compare the spread of every window's point forecast with the spread of what happened."""
    if result.origins.horizon < 3:
        return
    actual = np.where(result.observed, result.y.astype(np.float64), np.nan)
    whole = actual[result.observed.sum(axis=1) >= 3]
    forecast = result.point[result.observed.sum(axis=1) >= 3]
    if not len(whole):
        return
    moved = np.nanstd(whole, axis=1)
    moving = moved > 1e-6 * np.nanmax(np.abs(whole), axis=1)
    if not moving.any():
        return
    share = float(np.median(forecast.std(axis=1)[moving] / moved[moving]))
    if share >= FLAT_SHARE:
        return
    scores = {name: values["mae"] for name, values in result.baselines.items()}
    is_hard = bool(scores) and min(scores, key=scores.__getitem__) == "naive"
    excuse = (
        "; the naive forecast is the best baseline, so that flat may be right"
        if is_hard
        else "; baselines that move do better, so that there is something to follow"
    )
    message = f"over the horizon the forecast moves by {share:.1%} of what the data does ({part}){excuse if scores else ''}."
    yield Check("flat_forecast", "info" if is_hard else "warning", part, share, FLAT_SHARE, message)


def check_covariates(panel: Panel, splits: Splits) -> Iterator[Check]:
    """Look for covariates of numbers that give away the target at a time a forecast does not know."""
    columns, channel = panel.columns, 0
    for name in (*columns.futr_exog, *columns.hist_exog):
        width = len(columns.categories.get(name, ("",)))
        if name not in columns.categories:
            # What is known for the past only may equal the present value: the target's own past is known too.
            first = -min(splits.horizon - 1, MAX_LEAD) if name in columns.futr_exog else 1
            leads = range(first, min(splits.horizon, MAX_LEAD) + 1)
            yield from _leak(panel, splits, name, channel, leads)
        channel += width


def _leak(panel: Panel, splits: Splits, name: str, channel: int, leads: range) -> Iterator[Check]:
    shares = {lead: _unexplained(panel, splits, channel, lead) for lead in sorted(leads, key=abs)}
    lead = min(shares, key=shares.__getitem__, default=0)
    if not shares or not shares[lead] < LEAK_SHARE:
        return
    steps = f"{abs(lead)} step{'s' if abs(lead) > 1 else ''}"
    when = "at the same time" if lead == 0 else f"{steps} {'later' if lead > 0 else 'earlier'}"
    message = (
        f"covariate {name!r} equals {panel.target} {when} but for a factor and an offset; a forecast does not know that yet. "
        "Leave it out, or bring what is really known then."
    )
    yield Check("covariate_leak", "warning", name, shares[lead], LEAK_SHARE, message)


def _unexplained(panel: Panel, splits: Splits, channel: int, lead: int) -> float:
    """Median over series: deviation of `y[t + lead]` from a line in the covariate, relative to its change in one step."""
    shares = []
    chosen = np.unique(np.linspace(0, len(panel.ids) - 1, min(len(panel.ids), MAX_CHECK_SERIES)).round().astype(int))
    for series in chosen:
        start, end = int(panel.offsets[series]), int(panel.offsets[series] + splits.train_end[series])
        rows = np.arange(max(start, end - MAX_CHECK_ROWS), end)
        rows = rows[(rows + lead >= start) & (rows + lead < end)]
        rows = rows[panel.observed[rows + lead]] if len(rows) else rows
        if len(rows) < 20:
            continue
        y, x = panel.values[rows + lead].astype(np.float64), panel.covariates[rows, channel].astype(np.float64)
        change = float(np.std(np.diff(y)))
        if change > 0.0 and x.std() > 0.0:
            slope = float(np.mean((x - x.mean()) * (y - y.mean())) / x.var())
            shares.append(float(np.std(y - slope * x)) / change)
    return float(np.median(shares)) if shares else float("inf")


def check_demand(panel: Panel, result: BacktestResult) -> Iterator[Check]:
    """Look for series that rest between demands, as rows of 0 or as absent rows."""
    shown = np.unique(result.origins.series)
    share = float(result.demand.is_intermittent[shown].mean())
    if share >= 0.5:
        steps = float(np.nanmedian(result.demand.interval[shown]))
        message = (
            f"{share:.0%} of the series are intermittent, with a demand every {steps:.1f} steps in the middle. Errors of a "
            "median praise a forecast of 0: look at spl and sapis, and try model.scaler=mean_abs."
        )
        yield Check("intermittent_demand", "info", panel.target, share, 0.5, message)
    present = float(panel.observed.mean())
    is_sparse = panel.fill == "mask" and present <= 1.0 / INTERMITTENT_INTERVAL
    if is_sparse and panel.values[panel.observed].min() > 0.0:
        message = (
            f"{1.0 - present:.0%} of the steps have no row, and no value is 0. If no row means that nothing happened, "
            "set data.fill=zero: else only the days with a demand are learned and scored."
        )
        yield Check("intermittent_demand", "warning", panel.target, present, 1.0 / INTERMITTENT_INTERVAL, message)


def check_shift(panel: Panel, splits: Splits, part: Part) -> Iterator[Check]:
    """Compare level and spread of a part with stretches of training rows of the same length.

    A trend or a season moves the training stretches as well, so that neither is called a shift.
    """
    begins, ends = (splits.train_end, splits.val_end) if part == "val" else (splits.val_end, splits.lengths)
    levels, ratios = [], []
    for series in range(len(panel.ids)):
        found = _shift(panel, series, int(splits.train_end[series]), int(begins[series]), int(ends[series]))
        if found is not None:
            levels.append(found[0])
            ratios.append(found[1])
    if not levels:
        return
    name = "validation" if part == "val" else "test"
    yield from _report(
        "level_shift", name, np.array(levels), SHIFT_DEVIATIONS, np.abs,
        "lie {value:.1f} deviations off the level of training stretches of that length",
    )  # fmt: skip
    yield from _report(
        "spread_shift", name, np.array(ratios), SPREAD_RATIO, lambda ratio: np.maximum(ratio, 1.0 / ratio),
        "vary by {value:.2g} times the most, or that part of the least, that training stretches of that length do",
    )  # fmt: skip


def _shift(panel: Panel, series: int, train_end: int, begin: int, end: int) -> tuple[float, float] | None:
    """Level in deviations of the training blocks' levels, and spread outside of the blocks' spreads as a ratio."""
    size, start = end - begin, int(panel.offsets[series])
    if size < 2 or train_end // size < MIN_BLOCKS:
        return None
    y = np.where(panel.observed[start : start + end], panel.values[start : start + end].astype(np.float64), np.nan)
    count = train_end // size
    blocks = y[train_end - count * size : train_end].reshape(count, size)
    enough = np.isfinite(blocks).sum(axis=1) >= max(2, size // 2)
    if enough.sum() < MIN_BLOCKS or np.isfinite(y[begin:end]).sum() < 2:
        return None
    means, spreads = np.nanmean(blocks[enough], axis=1), np.nanstd(blocks[enough], axis=1)
    level, spread = float(np.nanmean(y[begin:end])), float(np.nanstd(y[begin:end]))
    if means.std() == 0.0 or spreads.min() <= 0.0 or spread <= 0.0:
        return None
    ratio = spread / spreads.max() if spread > spreads.max() else min(1.0, spread / spreads.min())
    return (level - float(means.mean())) / float(means.std()), ratio


def _report(
    code: str,
    part: str,
    values: Float[np.ndarray, " N"],
    threshold: float,
    size: Callable[[Float[np.ndarray, " N"]], Float[np.ndarray, " N"]],
    text: str,
) -> Iterator[Check]:
    sizes = size(values)
    affected = sizes > threshold
    if not affected.any() or affected.mean() < MIN_SHARE_OF_SERIES:
        return
    typical = float(np.median(sizes[affected]))
    series = "" if len(values) == 1 else f" of {int(affected.sum()):,} of {len(values):,} series"
    message = f"{part} rows{series} {text.format(value=typical)}; scores there say less about the future."
    yield Check(code, "warning", part, typical, threshold, message)


def check_trained_rows(result: BacktestResult, trained_until: str) -> Iterator[Check]:
    """Whether a model was trained on rows that a backtest forecasts.

    Args:
        result: The backtest.
        trained_until: Last timestamp that the model was trained on, as its bundle says.
    """
    origins, panel = result.origins, result.panel
    if not trained_until:
        return
    firsts: list[Any] = [
        panel.timestamps(int(series), int(cutoff), int(cutoff) + 1)[0]
        for series, cutoff in zip(origins.series, origins.cutoff, strict=True)
    ]
    limit = int(trained_until) if panel.time_kind == "integer" else type(firsts[0])(trained_until)
    inside = sum(first <= limit for first in firsts)
    if inside:
        message = (
            f"{inside:,} of {len(firsts):,} windows begin in rows that the model was trained on (until {trained_until}): "
            "their scores are too good. Backtest the configuration, or bring newer rows."
        )
        yield Check("origin_in_training", "warning", "origins", inside / len(firsts), 0.0, message)
