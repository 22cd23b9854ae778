"""The report of a study: one page that works offline, and the pictures by themselves."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from optuna import Study

from training.report.page import command_block, figure_block, figure_to_svg, html_page, section, table, tile
from training.report.words import BASELINE_WORDS
from training.tuning.plots import importances, plot_history, plot_importance, plot_parallel, plot_slices, study_points
from training.tuning.search import best_trial, count_states
from training.tuning.study import OUTCOME_KEY, Plan, counted_trials

CAPTIONS = {
    "history": "Validation error of every trial in the order they were begun; the line is the best healthy one so far.",
    "importance": "Share of the differences between the errors that each setting explains (functional analysis of variance).",
    "parallel": "Every trial is a line through its settings; the darker, the lower its error. Red: unhealthy gradients.",
    "slices": "The same errors over each setting by itself.",
}
MIN_POINTS = 2


def study_figures(study: Study, plan: Plan) -> dict[str, Figure]:
    """History, importance, parallel coordinates and slices, as far as there are trials for them."""
    points = study_points(study)
    if not points:
        return {}
    figures = {"history": plot_history(points)}
    if shares := importances(study):
        figures["importance"] = plot_importance(shares)
    if len(points) >= MIN_POINTS and any(point["settings"] for point in points):
        figures["parallel"] = plot_parallel(points, plan.space)
        figures["slices"] = plot_slices(points, plan.space)
    return figures


def write_study_page(study: Study, plan: Plan, figures: Mapping[str, Figure], winner_config: Path | None) -> str:
    """The page as an HTML document without references to anything outside of it."""
    pictures = "".join(
        figure_block(figure_to_svg(figure, name, CAPTIONS[name]), CAPTIONS[name]) for name, figure in figures.items()
    )
    parts = [
        f"<header><span>Study</span><span><b>{escape(plan.name)}</b></span></header>",
        _hero(study),
        _winner(study, winner_config),
        section("The search in pictures", pictures),
        section("All trials", table(("trial", "state", "verdict", "error", "steps", "seconds", "settings"), _rows(study))),
    ]
    return html_page(f"study {plan.name}", "\n".join(part for part in parts if part))


def _hero(study: Study) -> str:
    best, counts = best_trial(study), count_states(study)
    if best is None:
        words, tone = "No healthy trial yet", "bad"
        tiles = ""
    else:
        outcome = best.user_attrs[OUTCOME_KEY]
        words, tone = f"Trial {best.number} is the best: {outcome['metric'].upper()} {best.value:.4g}", "good"
        tiles = "".join(
            tile(BASELINE_WORDS.get(name, name.replace("_", " ")), f"{error:.4g}", outcome["metric"].upper())
            for name, error in outcome["baseline_error"].items()
        )
    counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    return f'<div class="hero {tone}"><h1>{escape(words)}</h1><p>{escape(counted)}</p><div class="tiles">{tiles}</div></div>'


def _winner(study: Study, winner_config: Path | None) -> str:
    best = best_trial(study)
    if best is None or winner_config is None:
        return ""
    rows = [(key, str(value)) for key, value in best.user_attrs[OUTCOME_KEY]["settings"].items()]
    command = command_block(f"gradcast train --config {shlex.quote(str(winner_config))}")
    return section("The winner", table(("setting", "value"), rows) + command, "Train it by itself, with report and bundle:")


def _rows(study: Study) -> Sequence[Sequence[str]]:
    rows = []
    for trial in counted_trials(study):
        outcome: Mapping[str, Any] | None = trial.user_attrs.get(OUTCOME_KEY)
        if outcome is not None:
            error = "-" if outcome["val_error"] is None else f"{outcome['val_error']:.4g}"
            settings = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in outcome["settings"].items())
            cells = (str(trial.number), outcome["state"].replace("_", " "), outcome["verdict"], error)
            rows.append((*cells, str(outcome["step"]), f"{outcome['seconds']:.0f}", settings))
    return rows
