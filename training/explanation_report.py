"""Explanations as sentences, a table and a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from models.bundle import BundleManifest
from training.data.panel import Panel
from training.explanation import LOOK_BACK_SHARE, Explanation
from training.plots import BLUE, FAINT, GREEN, INK, VERMILION, build_figure, style_axis
from training.report.page import figure_block, figure_to_svg, html_page, section, table, tile
from training.report.words import Unit

MAX_FIGURES = 12
MAX_CHANNELS = 12


def look_back_sentence(explanation: Explanation, manifest: BundleManifest) -> str:
    """How far back the forecast looks, against how far back the data pays."""
    unit = Unit.of(manifest.freq)
    steps, half = explanation.look_back(), explanation.look_back(0.5)
    need, context = manifest.gradient.get("need_steps"), manifest.network.context_length
    if steps == 0:
        return "The forecast does not depend on the shape of the past at all: it is that of a flat window."
    said = (
        f"Half of what moves this forecast lies within the last {unit.count(half)}, {LOOK_BACK_SHARE:.0%} within "
        f"{unit.count(steps)} of the {unit.count(context)} it is shown"
    )
    if need is None:
        return f"{said}."
    if steps >= need:
        return f"{said}: as far as the {unit.count(need)} that the data pays for."
    share = explanation.beyond(need // 2)
    return (
        f"{said}: less than the {unit.count(need)} that the data pays for; what lies beyond half of that "
        f"accounts for {share:.1%}."
    )


def channel_shares(explanation: Explanation, manifest: BundleManifest) -> dict[str, float]:
    """Share of each input column in what moves the forecast, signs dropped; the largest first."""
    parts, columns = explanation.attributions, manifest.columns
    sizes = {manifest.target: float(np.abs(parts.context).sum())}
    for names, values in ((columns.past_features, parts.past), (columns.future_features, parts.future)):
        for index, name in enumerate(names):
            sizes[name] = sizes.get(name, 0.0) + float(np.abs(values[:, index]).sum())
    for index, name in enumerate(columns.static_features):
        sizes[name] = sizes.get(name, 0.0) + float(abs(parts.static[index]))
    total = sum(sizes.values()) or 1.0
    return {name: size / total for name, size in sorted(sizes.items(), key=lambda item: -item[1])}


def explanation_to_dict(explanation: Explanation, manifest: BundleManifest) -> dict[str, Any]:
    """One series of the JSON document of `explain --json`."""
    return {
        "unique_id": explanation.name,
        "horizon_step": explanation.horizon_step,
        "forecast": explanation.forecast,
        "flat_forecast": explanation.flat_forecast,
        "completeness_gap": explanation.gap,
        "look_back_steps": explanation.look_back(),
        "half_steps": explanation.look_back(0.5),
        "need_steps": manifest.gradient.get("need_steps"),
        "sentence": look_back_sentence(explanation, manifest),
        "shares": channel_shares(explanation, manifest),
    }


def write_explanations(path: Path, explanations: Sequence[Explanation], panel: Panel, manifest: BundleManifest) -> int:
    """Write one row per series and input as parquet.

    Columns: `unique_id`, `horizon_step` (null = mean over the horizon), `part` (past, future, static), `column`, `lag`
    (steps before the first forecast step, from 1; steps ahead are 0, -1, ...; null for static columns), `ds`, `value`,
    `attribution` in the unit of `y`, and `gradient` in units of `y` per unit of the column.

    Returns:
        Rows written.
    """
    rows = pa.concat_tables([_rows(explanation, panel, manifest) for explanation in explanations])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, compression="zstd")
    return int(rows.num_rows)


def _rows(explanation: Explanation, panel: Panel, manifest: BundleManifest) -> pa.Table:
    length, context = int(panel.lengths[explanation.series]), len(explanation.attributions.context)
    horizon = manifest.network.horizon
    lags, steps = np.arange(context, 0, -1), np.arange(horizon)
    past, future, static = (
        getattr(manifest.columns, name) for name in ("past_features", "future_features", "static_features")
    )
    facts = (explanation.values, explanation.attributions, explanation.gradients)
    hidden = ~explanation.observed
    blocks = [_block(explanation.name, "past", manifest.target, lags, [part.context for part in facts], hidden)]
    for at, name in enumerate(past):
        blocks.append(_block(explanation.name, "past", name, lags, [part.past[:, at] for part in facts]))
    for at, name in enumerate(future):
        blocks.append(_block(explanation.name, "future", name, -steps, [part.future[:, at] for part in facts]))
    for at, name in enumerate(static):
        blocks.append(_block(explanation.name, "static", name, None, [part.static[at : at + 1] for part in facts]))
    rows = pa.concat_tables(blocks)
    lag = rows["lag"]
    first = length - context
    # Padding before the start of a series has a time too: the grid goes on.
    times = pa.array(panel.timestamps(explanation.series, first, length + horizon))
    place = pa.array([None if value is None else length - value - first for value in lag.to_pylist()], pa.int64())
    step = pa.array([explanation.horizon_step] * rows.num_rows, pa.int32())
    rows = rows.append_column("ds", times.take(place)).append_column("horizon_step", step)
    order = ["unique_id", "horizon_step", "part", "column", "lag", "ds", "value", "attribution", "gradient"]
    return rows.select(order)


def _block(
    name: str, part: str, column: str, lags: np.ndarray | None, facts: Sequence[np.ndarray], hidden: np.ndarray | None = None
) -> pa.Table:
    value, attribution, gradient = facts
    count = len(value)
    return pa.table(
        {
            "unique_id": pa.array([name] * count),
            "part": pa.array([part] * count),
            "column": pa.array([column] * count),
            "lag": pa.array([None] * count if lags is None else lags, pa.int64()),
            "value": pa.array(value, mask=hidden),
            "attribution": pa.array(attribution),
            "gradient": pa.array(gradient),
        }
    )


def write_explanation_page(explanations: Sequence[Explanation], manifest: BundleManifest, model: str) -> str:
    """The page as an HTML document without references to anything outside of it."""
    parts = [f"<header><span>Explanation</span><span><b>{escape(model)}</b></span></header>"]
    for number, explanation in enumerate(explanations[:MAX_FIGURES]):
        parts.append(_series_section(explanation, manifest, number))
    if len(explanations) > MAX_FIGURES:
        parts.append(f'<p class="note">{len(explanations) - MAX_FIGURES} more series are in the table only.</p>')
    parts.append(section("How to read this", _reading()))
    return html_page(f"explanation: {model}", "\n".join(parts))


def _series_section(explanation: Explanation, manifest: BundleManifest, number: int) -> str:
    step = explanation.horizon_step
    what = "the mean of the horizon" if step is None else f"step {step} ahead"
    tiles = "".join(
        (
            tile("forecast", f"{explanation.forecast:.5g}", what),
            tile("of a flat window", f"{explanation.flat_forecast:.5g}", "same level, mean covariates"),
            tile("looks back", Unit.of(manifest.freq).count(explanation.look_back()), f"{LOOK_BACK_SHARE:.0%} of what moves it"),
            tile("adds up to", f"{explanation.gap:.1e}", "sum of the parts, less the difference"),
        )
    )
    svg = figure_to_svg(plot_explanation(explanation, manifest), f"past{number}", "attribution of every past step")
    caption = "Above: what the network saw. Below: how far each step moves the forecast up (blue) or down (red)."
    shares = channel_shares(explanation, manifest)
    rows = [(name, f"{share:.1%}") for name, share in list(shares.items())[:MAX_CHANNELS]]
    body = f'<div class="tiles">{tiles}</div>{figure_block(svg, caption)}{table(("column", "share"), rows)}'
    return section(f"{explanation.name}: {what}", body, look_back_sentence(explanation, manifest))


def plot_explanation(explanation: Explanation, manifest: BundleManifest) -> Figure:
    """The context, and below it the attribution of every step: of the target, and of all covariates together."""
    parts = explanation.attributions
    lags = np.arange(len(parts.context), 0, -1)
    figure = build_figure(9.0, 4.6)
    above, below = figure.subplots(2, 1, sharex=True)
    for axis in (above, below):
        style_axis(axis)
    shown = np.where(explanation.observed, explanation.values.context, np.nan)
    above.plot(-lags, shown, color=INK, lw=1.1)
    above.set_ylabel(manifest.target, color=INK, fontsize=9)
    colours = np.where(parts.context >= 0, BLUE, VERMILION)
    below.bar(-lags, parts.context, width=1.0, color=colours)
    if parts.past.shape[1]:
        below.plot(-lags, parts.past.sum(axis=1), color=GREEN, lw=1.0, label="all covariates together")
        below.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    below.axhline(0, color=FAINT, lw=0.8)
    reach, need = explanation.look_back(), manifest.gradient.get("need_steps")
    for axis in (above, below):
        axis.axvline(-reach - 0.5, color=BLUE, lw=1.0, ls="--")
        if need is not None and need <= len(lags):
            axis.axvline(-need - 0.5, color=VERMILION, lw=1.0, ls=":")
    below.set_ylabel(f"part of the forecast\n(unit of {manifest.target})", color=INK, fontsize=9)
    note = "dashed: how far it looks back" + ("; dotted: need" if need is not None and need <= len(lags) else "")
    below.set_xlabel(f"steps before the forecast ({note})", color=INK, fontsize=9)
    return figure


def _reading() -> str:
    return (
        "<p>The difference between the forecast and that of a flat window at the same level, with every covariate at its "
        "training mean, is divided among the inputs by integrated gradients; the parts add up to it. Level and spread of the "
        "window are held: they set the unit of the forecast, not its shape. A part says what the network used, not what is "
        "true of the world.</p>"
    )
