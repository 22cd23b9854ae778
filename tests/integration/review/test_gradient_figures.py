"""Figures of the flow: the numbers drawn are the numbers measured, and need and thresholds stand where they should."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.integration.review.example_run import LAGS, NEED, STEPS, build_evidence, build_readings, build_settings
from training.gradients.readings import Readings
from training.report.flow import flow_map
from training.report.flow_plots import (
    flow_pictures,
    plot_compared_curves,
    plot_compared_series,
    plot_flow,
    plot_flow_over_time,
    plot_lag_curves,
)
from training.report.lag_axes import FLOW_COLOURS, FLOW_NORM
from training.report.state_plots import plot_gate_map, plot_need
from training.report.words import Unit

HOUR = Unit.of("h")
PNG = b"\x89PNG\r\n\x1a\n"


def lines_of(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def texts_of(axis):
    return [text.get_text() for text in axis.texts]


def mesh_values(axis):
    return np.asarray(axis.collections[0].get_array())


def test_the_heat_map_of_a_step_holds_its_ratios():
    """One row per layer, the whole network on top, one cell per lag, colour by the ratio's decade and the number in it."""
    figure = plot_flow(build_readings(), 100, NEED, unit=HOUR)
    above, below = figure.axes
    assert [label.get_text() for label in above.get_yticklabels()] == ["whole network", "lstm.1", "lstm.0"]
    values = mesh_values(above)
    assert values.shape == (3, len(LAGS))
    np.testing.assert_allclose(values[0], flow_map(build_readings(), "stack")[2][:, 1])
    assert len(above.texts) == 3 * len(LAGS)
    assert "1" in texts_of(above)
    assert "your need: 168 hours" in texts_of(below)
    assert below.get_xlabel() == "hours back from the forecast"


def test_the_curves_below_the_heat_map_are_those_of_the_step():
    """Each layer's curve is the measured one; where it falls below what is shown it ends."""
    readings = build_readings()
    line = lines_of(plot_flow(readings, 300, NEED).axes[1])["whole network"]
    curve = readings.curve("jacobian/stack", 300)
    shown = [lag for lag in line.get_xdata() if curve[lag] > 1e-8]
    np.testing.assert_allclose(line.get_ydata()[: len(shown)], [curve[lag] for lag in shown])
    assert len(line.get_xdata()) == len(shown) + 1


def test_pictures_of_all_steps_share_their_axes():
    """Behind a slider only the data may move."""
    limits = {plot_flow(build_readings(), step, NEED).axes[1].get_ylim() for step in STEPS}
    positions = {plot_flow(build_readings(), step, NEED).axes[1].get_position().bounds for step in STEPS}
    assert len(limits) == len(positions) == 1


def test_colours_tell_arriving_from_lost_and_exploding():
    """Nothing is transparent, all is full blue, and what explodes is red."""
    lost, reach, full, exploded = (FLOW_COLOURS(FLOW_NORM(decade)) for decade in (-8, -3, 0, 3.5))
    assert lost[3] == 0
    assert 0.2 < reach[3] < 0.5
    assert full[3] > 0.9
    assert full[2] > full[0]
    assert exploded[0] > exploded[2]


def test_the_flow_over_time_has_a_map_per_layer():
    """Steps to the right, lags upwards, the reach and the need as lines."""
    readings = build_readings()
    figure = plot_flow_over_time(readings, NEED, unit=HOUR)
    panels = [axis for axis in figure.axes if axis.get_title(loc="left")]
    assert [axis.get_title(loc="left") for axis in panels] == ["whole network", "lstm.1", "lstm.0"]
    np.testing.assert_allclose(mesh_values(panels[2]).reshape(len(LAGS), len(STEPS)), flow_map(readings, "lstm.0")[2])
    lines = lines_of(panels[0])
    assert list(lines["reach of this network"].get_ydata()) == readings.series("grad_reach/stack")[1]
    assert set(lines["your need: 168 hours"].get_ydata()) == {NEED}


def test_lag_curves_show_first_and_last_against_the_need():
    """First and last measurement of every layer, the thresholds, and the need as a line with its words."""
    figure = plot_lag_curves(build_readings(), NEED, unit=HOUR)
    axis = figure.axes[0]
    lines = lines_of(axis)
    assert {"whole network, step 1", "whole network, step 300", "lstm.0, step 300"} <= set(lines)
    levels = {line.get_ydata()[0] for line in axis.get_lines() if len(set(line.get_ydata())) == 1}
    assert {1e-3, 1e-7} <= levels
    assert "your need: 168 hours" in texts_of(axis)
    assert any(list(line.get_xdata()) == [NEED, NEED] for line in axis.get_lines())


def test_the_losss_own_gradient_is_drawn_where_it_was_measured():
    """The preset `full` adds the gradient of the loss and, for one layer, that at its input."""
    readings = Readings()
    for kind in ("jacobian", "reach", "envelope"):
        readings.add(1, {f"{kind}/rnn.0@{lag}": 0.5**lag for lag in (1, 5, 20)})
    labels = set(lines_of(plot_lag_curves(readings).axes[0]))
    assert {"rnn.0, step 1", "rnn.0, of the loss", "rnn.0, at its input"} <= labels


def test_a_need_outside_of_the_context_is_said():
    """A need beyond the longest lag cannot be drawn at its place, so words say where it is."""
    axis = plot_flow(build_readings(), 300, 500, unit=HOUR).axes[1]
    assert "your need: 500 hours, outside of what is shown →" in texts_of(axis)


def test_a_need_nearer_than_the_first_segment_is_said():
    """Words left of the panel would push it out of its own picture."""
    readings = Readings()
    readings.add(1, {f"jacobian/gru.0@{lag}": 1.0 for lag in (24, 48, 96)})
    axis = plot_lag_curves(readings, 2, unit=HOUR).axes[0]
    words = next(text for text in axis.texts if "nearer" in text.get_text())
    assert words.get_text() == "← your need: 2 hours, nearer than what is shown"
    assert words.xy[0] == 24
    assert not any(list(line.get_xdata()) == [2, 2] for line in axis.get_lines())


def test_strange_ratios_are_drawn_without_complaint():
    """Zero, infinity and lags that were not measured at a step neither warn nor fail."""
    readings = Readings()
    readings.add(1, {"jacobian/rnn.0@1": 1.0, "jacobian/rnn.0@5": 0.0, "jacobian/rnn.0@20": math.inf})
    readings.add(2, {"jacobian/rnn.0@1": 1.0})
    _, _, decades = flow_map(readings, "rnn.0")
    np.testing.assert_array_equal(decades, [[0, 0], [-8, math.nan], [4, math.nan]])
    for figure in (plot_flow(readings, 2, 5), plot_flow_over_time(readings, 5), plot_lag_curves(readings, 5)):
        figure.canvas.draw()


def test_many_layers_stay_legible():
    """Of more than six layers a spread is drawn, the first and the last among them."""
    readings = Readings()
    readings.add(1, {f"jacobian/lstm.{layer}@{lag}": 0.5 for layer in range(12) for lag in (1, 5, 9)})
    titles = [axis.get_title(loc="left") for axis in plot_flow_over_time(readings).axes]
    panels = [title for title in titles if title]
    assert len(panels) == 6
    assert (panels[0], panels[-1]) == ("lstm.11", "lstm.0")


def test_the_gate_map_shows_last_values_per_gate():
    """One row per gate; the mean of a tanh gate is no opening; the last value stands beside the row."""
    figure = plot_gate_map(build_readings())
    opened, saturated, shut = figure.axes[:3]
    rows = [label.get_text() for label in opened.get_yticklabels()]
    assert rows[1:6] == ["lstm.1 input", "lstm.1 forget", "lstm.1 cell", "lstm.1 output", "lstm.1 state"]
    assert texts_of(opened) == ["40%", "62%", "50%"] * 2
    assert "15%" in texts_of(saturated)
    assert texts_of(shut)[0] == "25%"
    assert plot_gate_map(Readings()) is None


def test_the_need_curve_is_the_linear_models():
    """Contexts and errors as tried, need and reach marked; a declared need has no curve."""
    need = build_evidence(build_settings()).need
    axis = plot_need(need, 31, HOUR).axes[0]
    line = lines_of(axis)["linear model"]
    assert tuple(line.get_xdata()) == need.contexts
    assert tuple(line.get_ydata()) == need.errors
    assert {"need: 168 hours", "this network's reach: 31 hours"} <= set(texts_of(axis))
    assert plot_need(need.model_copy(update={"contexts": (), "errors": ()})) is None


def test_runs_are_compared_in_one_panel():
    """The whole network's curve of every run, and any quantity over steps; what was not measured is left out."""
    runs = {"a": build_readings(), "b": build_readings(), "empty": Readings()}
    labels = set(lines_of(plot_compared_curves(runs, NEED).axes[0]))
    assert {"a, step 300", "b, step 300", "a, step 1"} <= labels
    courses = {name: readings.series("loss/val") for name, readings in runs.items()}
    lines = lines_of(plot_compared_series(courses, "Loss", "loss", need=3).axes[0])
    assert list(lines["a"].get_ydata()) == pytest.approx([0.02, 0.01, 2 / 300])
    assert "empty" not in lines
    assert plot_compared_series({"empty": ([], [])}, "Loss", "loss") is None
    assert plot_compared_curves({"empty": Readings()}) is None


def test_the_dashboard_gets_a_picture_per_step():
    """One PNG per measured step, by its step."""
    pictures = flow_pictures(build_readings(), NEED, HOUR)
    assert tuple(pictures) == STEPS
    assert all(picture.startswith(PNG) for picture in pictures.values())
    assert flow_pictures(Readings()) == {}
