"""Figures show what they claim: the right numbers, named, without touching matplotlib's global state."""

from __future__ import annotations

import subprocess
import sys

import matplotlib.colors as colors
import numpy as np
import pandas as pd
import pytest
import torch

from training.backtest import run_backtest
from training.config import DataConfig
from training.data.panel import build_panel
from training.data.splits import build_splits
from training.data.windows import WindowStore
from training.origins import build_origins
from training.plots import figure_to_png, plot_forecasts, plot_gate_norms, plot_grad_norms, plot_losses

HORIZON = 6
LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)
PNG = b"\x89PNG\r\n\x1a\n"


def backtest(num_series, timezone=None, freq="h"):
    """A small backtest whose forecasts count up from the number of the series."""
    length = 120
    ds = np.arange(length) if freq == "1" else pd.date_range("2024-03-28", periods=length, freq=freq, tz=timezone)
    frames = [
        pd.DataFrame({"unique_id": f"sensor {k}", "ds": ds, "y": 10.0 * k + np.sin(np.arange(length))})
        for k in range(num_series)
    ]
    config = DataConfig(freq=freq, season_length=24, calendar="none", target_col="load in MW")
    panel = build_panel(pd.concat(frames, ignore_index=True), config, horizon=HORIZON)
    store, splits = WindowStore(panel, 24, HORIZON), build_splits(panel, HORIZON, 12, 24)

    def predict(series, cutoff):
        centre = 10.0 * series[:, None] + torch.arange(HORIZON)
        return centre[..., None] + torch.tensor([-3.0, -2.0, 0.0, 2.0, 3.0])

    origins = build_origins(panel, splits, "test", HORIZON)
    return run_backtest(predict, panel, store, splits, origins, LEVELS, ["seasonal_naive"]), panel


def lines_of(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_forecast_panel_draws_the_forecast_and_the_truth():
    """In the panel of a series, the median, the actual values and the baseline are those of its newest window."""
    result, panel = backtest(2)
    figure = plot_forecasts(result, panel, max_series=2)
    assert len(figure.axes) == 2
    for k, axis in enumerate(figure.axes):
        window = np.flatnonzero(result.origins.series == k)[-1]
        lines = lines_of(axis)
        np.testing.assert_array_equal(lines["median forecast"].get_ydata(), result.point[window])
        np.testing.assert_array_equal(lines["actual"].get_ydata()[-HORIZON:], result.y[window])
        np.testing.assert_array_equal(
            lines["seasonal naive"].get_ydata(), result.baseline_forecasts["seasonal_naive"][window]
        )
        last_known = panel.timestamps(k, int(result.origins.cutoff[window]) - 1, int(result.origins.cutoff[window]))
        assert lines["cutoff"].get_xdata()[0] == np.datetime64(last_known[0])
        assert axis.get_title(loc="left").startswith(f"sensor {k}, known to 2024-04-01 17:00 · MASE")


def test_forecast_panel_names_unit_and_intervals():
    """The axis carries the target's name, the legend the nominal coverage of both bands."""
    result, panel = backtest(1)
    figure = plot_forecasts(result, panel, max_series=1)
    assert figure.axes[0].get_ylabel() == "load in MW"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["90 % interval", "80 % interval"]
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    window = len(result.origins) - 1
    assert (band.min(), band.max()) == (result.quantiles[window, :, 0].min(), result.quantiles[window, :, -1].max())


def test_panels_are_spread_over_series_and_fall_back_to_windows():
    """Ten series in three panels are the first, a middle and the last; one series fills three with its windows."""
    result, panel = backtest(10)
    titles = [axis.get_title(loc="left").split(",")[0] for axis in plot_forecasts(result, panel, max_series=3).axes]
    assert titles == ["sensor 0", "sensor 4", "sensor 9"]
    result, panel = backtest(1)
    titles = [axis.get_title(loc="left").split("·")[0] for axis in plot_forecasts(result, panel, max_series=3).axes]
    assert len(set(titles)) == 3


@pytest.mark.parametrize(("timezone", "freq"), [("Europe/Berlin", "h"), (None, "1")])
def test_local_and_integer_time_can_be_drawn(timezone, freq):
    """A panel with a time zone and one over integers render to PNG without a warning."""
    assert figure_to_png(plot_forecasts(*backtest(1, timezone, freq), max_series=1), dpi=40).startswith(PNG)


def test_losses_mark_the_best_validation():
    """The star lies on the lowest finite validation loss, or on the step that was kept."""
    steps, losses = [100, 200, 300], [0.5, float("nan"), 0.3]
    axis = plot_losses([50, 150, 250], [0.6, 0.5, 0.4], steps, losses).axes[0]
    assert lines_of(axis)["best: 0.3 at step 300"].get_xydata().tolist() == [[300.0, 0.3]]
    kept = plot_losses([50], [0.6], steps, losses, best_step=100).axes[0]
    assert lines_of(kept)["best: 0.5 at step 100"].get_xydata().tolist() == [[100.0, 0.5]]


def test_losses_get_a_logarithmic_axis_only_where_they_need_it():
    """A fall from 9 to 0.1 is logarithmic, one from 2 to 1 is not, and a negative loss never is."""
    scales = [
        plot_losses([1, 2], values, [2], [values[-1]]).axes[0].get_yscale()
        for values in ([9.0, 0.1], [2.0, 1.0], [5.0, -1.0])
    ]
    assert scales == ["log", "linear", "linear"]


def test_grad_norms_are_logarithmic_and_keep_broken_readings_visible():
    """Each layer is a line; an infinite norm leaves a gap in the line and a cross at its step."""
    norms = {"total": [1.0, 2.0, 3.0], "lstm.0": [0.1, np.inf, 0.3], "head": [0.5, 0.5, 0.0]}
    figure = plot_grad_norms([10, 20, 30], norms, max_grad_norm=1.0)
    axis = figure.axes[0]
    lines = lines_of(axis)
    assert axis.get_yscale() == "log"
    np.testing.assert_array_equal(lines["lstm.0"].get_ydata(), [0.1, np.nan, 0.3])
    (cross,) = [line for line in axis.get_lines() if line.get_marker() == "x"]
    figure.draw_without_rendering()
    place = axis.transAxes.inverted().transform(cross.get_transform().transform(cross.get_xydata()))
    assert cross.get_xdata().tolist() == [20]
    assert 0.9 < place[0, 1] < 1.0
    assert lines["clip at 1"].get_ydata() == [1.0, 1.0]
    assert figure_to_png(figure, dpi=40).startswith(PNG)


def test_layers_of_a_deep_network_stay_apart():
    """Twelve layers have twelve different combinations of colour and dash."""
    norms = {f"lstm.{k}": [1.0 + k, 2.0 + k] for k in range(12)}
    axis = plot_grad_norms([1, 2], norms).axes[0]
    looks = {(colors.to_hex(line.get_color()), line.get_linestyle()) for line in axis.get_lines()}
    assert len(looks) == 12


def test_gate_norms_have_a_panel_per_matrix():
    """Names are split at the last dot: one panel per matrix, one line per gate, sixteen panels at most."""
    gates = ("input", "forget", "cell", "output")
    norms = {f"lstm.0.{matrix}.{gate}": [1.0, 0.5] for matrix in ("weight_ih", "weight_hh") for gate in gates}
    figure = plot_gate_norms([1, 2], norms)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["lstm.0.weight_ih", "lstm.0.weight_hh"]
    assert list(lines_of(figure.axes[1])) == list(gates)
    deep = plot_gate_norms([1, 2], {f"lstm.{k}.weight_hh.forget": [1.0, 1.0] for k in range(40)})
    assert len(deep.axes) == 16
    assert deep.get_supxlabel() == "optimizer step (16 of 40 matrices)"


def test_nothing_to_draw_is_an_empty_figure_not_an_error():
    """A run stopped before its first reading still gets its figures."""
    for figure in (plot_losses([], [], [], []), plot_grad_norms([], {}), plot_gate_norms([], {})):
        assert figure_to_png(figure, dpi=40).startswith(PNG)


def test_global_plotting_state_is_never_touched(repository):
    """Importing and drawing does not import pyplot: figures can be drawn in any thread."""
    program = (
        "import sys; from training.plots import *; figure_to_png(plot_losses([1], [1.0], [1], [1.0]));"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
