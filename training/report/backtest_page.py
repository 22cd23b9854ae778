"""The report of a backtest: one HTML file to look at every forecast beside what happened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from training import metrics
from training.backtest import BacktestResult
from training.backtest_tables import per_series_table
from training.backtest_text import UNITS
from training.diebold_mariano import SIGNIFICANCE, describe_test
from training.report.backtest_chart import CHART_BODY, CHART_SCRIPT, CHART_STYLE, STEPS_BODY
from training.report.backtest_data import chart_document, to_script
from training.report.page import html_page, section, table, tile

MAX_SERIES_ROWS = 50
BASELINE_METRICS = ("mae", "rmse", "mase", "rmsse", "smape", "wql", "crps", "spl", "scfe", "spis", "sapis")
SERIES_METRICS = ("num_windows", "mae", "rmse", "mase", "wql")


def write_backtest_report(result: BacktestResult, model_name: str, path: Path, notes: Sequence[str] = ()) -> None:
    """Write the report as one file that needs nothing outside of it.

    Args:
        result: The backtest.
        model_name: What to call the network.
        path: File to create or replace; its folder is created.
        notes: What the reader must know, one sentence each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_backtest_report(result, model_name, notes), encoding="utf-8")


def render_backtest_report(result: BacktestResult, model_name: str, notes: Sequence[str] = ()) -> str:
    """The complete HTML document."""
    document = chart_document(result, model_name)
    parts = [
        _header(result, model_name),
        _hero(result, model_name, notes),
        section("Forecasts", CHART_BODY, _chart_lead(result, document)),
        section("Error by step ahead", STEPS_BODY, _steps_lead(result)),
        section("Intervals", _intervals(result, model_name), "An interval is right if it holds the truth as often as it says."),
        section("Scores", _scores(result, model_name), "Smaller is better; of the signed ones, nearer to 0."),
        section("Better, or luck?", _tests(result, model_name), _TEST_LEAD),
        section("Series", _series(result)),
        "<footer>Written by gradcast. What the scores mean: docs/backtest.md.</footer>",
        to_script(document),
    ]
    title = f"backtest: {model_name} on {result.panel.target}"
    return html_page(title, "\n".join(part for part in parts if part), CHART_STYLE, CHART_SCRIPT)


_TEST_LEAD = (
    "The Diebold-Mariano test on absolute errors, with the small-sample correction of Harvey, Leybourne & Newbold (1997): "
    f"below p = {SIGNIFICANCE:g}, chance hardly explains the difference."
)


def _header(result: BacktestResult, model_name: str) -> str:
    origins = result.origins
    facts = [
        f"<b>{escape(model_name)}</b>",
        f"{len(np.unique(origins.series)):,} series",
        f"{len(origins):,} windows of {origins.horizon} steps of {escape(result.panel.freq)}, every {origins.step_size}",
        f"{int(result.observed.sum()):,} targets",
    ]
    return "<header><span>Backtest report</span>" + "".join(f"<span>{fact}</span>" for fact in facts) + "</header>"


def _hero(result: BacktestResult, model_name: str, notes: Sequence[str]) -> str:
    metric = "mase" if math.isfinite(result.metrics["mase"]) else "mae"
    own = result.metrics[metric]
    rivals = {name: scores[metric] for name, scores in result.baselines.items() if scores[metric] > 0.0}
    tone, badge, sentence = "unsure", "not compared", f"{model_name} has a {metric.upper()} of {own:.4g}"
    if rivals and math.isfinite(own):
        rival = min(rivals, key=rivals.__getitem__)
        change, test = own / rivals[rival] - 1.0, result.tests[rival]
        is_told = test.p_value < SIGNIFICANCE
        tone = "unsure" if not is_told else "good" if change < 0 else "bad"
        badge = "may be luck" if not is_told else "better" if change < 0 else "worse"
        word = "below" if change < 0 else "above"
        sentence = (
            f"{model_name}'s errors are {abs(change):.1%} {word} those of the best baseline, {rival.replace('_', ' ')}"
        )
    notices = "".join(f'<p class="notice">{escape(note)}</p>' for note in notes)
    return (
        f'<div class="hero {tone}"><span class="badge">{badge}</span><h1>{escape(sentence)}</h1>{notices}'
        f'<div class="tiles">{"".join(_tiles(result))}</div></div>'
    )


def _tiles(result: BacktestResult) -> list[str]:
    scores = result.metrics
    tiles = [
        tile("MASE", f"{scores['mase']:.3f}", "1 = repeating the last season, on training rows"),
        tile("WQL", f"{scores['wql']:.3f}", "loss of all quantiles over the size of y"),
    ]
    for percent in list(metrics.central_intervals(result.quantile_levels))[:2]:
        share, want = scores[f"coverage_{percent}"], float(percent) / 100.0
        note = f"{want:.0%} is right; mean width {scores[f'width_{percent}']:.4g}"
        tiles.append(tile(f"inside the {percent} % interval", f"{share:.1%}", note))
    return tiles


def _chart_lead(result: BacktestResult, document: dict[str, object]) -> str:
    series = document["series"]
    assert isinstance(series, list)
    shown = sum(len(one["windows"]) for one in series)
    part = "" if shown == len(result.origins) else f" {shown:,} of {len(result.origins):,} windows are in this file."
    return f"Right of the dashed line nothing was known. Hover for values; arrow keys move the origin.{part}"


def _steps_lead(result: BacktestResult) -> str:
    return f"Mean absolute error in the unit of {result.panel.target}; what the legend above hides is hidden here too."


def _intervals(result: BacktestResult, model_name: str) -> str:
    rows = []
    for name, scores in ({model_name: result.metrics} | result.baselines).items():
        for percent in metrics.central_intervals(result.quantile_levels):
            if f"coverage_{percent}" in scores:
                share, width, fine = (scores[f"{kind}_{percent}"] for kind in ("coverage", "width", "msis"))
                cells = (name.replace("_", " "), f"{percent} %", f"{share:.1%}", f"{width:.4g}", f"{fine:.4g}")
                rows.append(cells)
    below = [
        (f"{level:g}", f"{float(np.mean(result.y[result.observed] <= result.quantiles[..., k][result.observed])):.1%}")
        for k, level in enumerate(result.quantile_levels)
    ]
    parts = table(("", "interval", "holds the truth", "mean width", "MSIS"), rows) if rows else ""
    return parts + table(("quantile", "share of the truth at or below it"), below)


def _scores(result: BacktestResult, model_name: str) -> str:
    names = [name for name in BASELINE_METRICS if name in result.metrics]
    headings = ["", *(f"{name} ({UNITS.get(name, 'unit of y')})" for name in names)]
    rows = [
        (row.replace("_", " "), *(_number(scores.get(name, math.nan)) for name in names))
        for row, scores in ({model_name: result.metrics} | result.baselines).items()
    ]
    return table(headings, rows)


def _tests(result: BacktestResult, model_name: str) -> str:
    sentences = [describe_test(test, model_name, name.replace("_", " ")) for name, test in result.tests.items()]
    return "<ul>" + "".join(f"<li>{escape(sentence)}.</li>" for sentence in sentences) + "</ul>" if sentences else ""


def _series(result: BacktestResult) -> str:
    rows = per_series_table(result).to_pylist()
    if len(rows) < 2:
        return ""
    worst = sorted(rows, key=lambda row: -row["mase"] if math.isfinite(row["mase"]) else math.inf)
    shown = [(row["unique_id"], *(_number(row[name]) for name in SERIES_METRICS)) for row in worst[:MAX_SERIES_ROWS]]
    more = f"<p class=note>The worst {len(shown)} of {len(rows):,}.</p>" if len(rows) > len(shown) else ""
    return table(("series", "windows", "MAE", "RMSE", "MASE", "WQL"), shown) + more


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if math.isfinite(value) else "undefined"
