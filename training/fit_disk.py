"""Disk that a run takes, from what it will write: weights, moments, readings, forecasts, the last rows of every series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.context import MAX_CONTEXT_BYTES, context_bytes
from training.data.panel import Panel
from training.data.windows import validation_cutoffs
from training.evaluation import MAX_BACKTEST_WINDOWS
from training.fit_memory import num_moments, weight_bytes
from training.origins import Part, build_origins
from training.preparation import MAX_VALIDATION_WINDOWS, Prepared

# Measured on runs of 30 to 2,000 steps, one to 2,000 series: figures and pages, which depend on little.
REPORT_BYTES = 1_000_000
# States of the random generators and the description of the tensors.
_CHECKPOINT_EXTRA = 16_000
# Bytes per number in parquet: forecasts are not compressed, rather the contrary; last rows hardly. Names, timestamps and
# the naive forecast nearly vanish.
_FORECAST, _VALUE, _TABLE_FOOTER = 5.2, 4.2, 8_000
# Loss and number of targets of every validation window.
_LOSS_AND_TARGETS = 2 * 8
_STORED_BESIDE = ("y", "mean", "seasonal_naive", "linear")
_BYTES_PER_DIGITS = 20  # of a number written as text
_READINGS_SHARE = 0.25  # of the readings as text: what parquet makes of them, and the lines of progress


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes a run leaves on disk; a store for tracking on this machine keeps all but the checkpoints and the map once more.

    Attributes:
        checkpoints: The best, the last and the one before; one more for a moment while it is written.
        bundle: Weights, golden forecast, the last rows of every series.
        backtest: Forecasts of validation, and of test if there is one.
        reports: Figures, pages, readings.
        map: The panel, where it lives in files; under the user's cache, once for all runs on the same data.
    """

    checkpoints: int
    bundle: int
    backtest: int
    reports: int
    map: int

    @property
    def run(self) -> int:
        """The run's directory."""
        return self.checkpoints + self.bundle + self.backtest + self.reports

    @property
    def total(self) -> int:
        """Directory and map."""
        return self.run + self.map


def estimate_disk(prepared: Prepared, readings: int) -> DiskEstimate:
    """What the run will write.

    Args:
        prepared: Data and network.
        readings: Bytes of all readings of the fit, as text.
    """
    fit = prepared.config.fit
    weights = weight_bytes(prepared.forecaster)
    lowest = len(validation_cutoffs(prepared.splits, MAX_VALIDATION_WINDOWS)[0]) * _LOSS_AND_TARGETS
    last = weights * (1 + num_moments(prepared.config.optimizer)) + lowest + _CHECKPOINT_EXTRA + readings
    kept = min(-(-fit.max_steps // fit.val_check_steps), 2)
    return DiskEstimate(
        checkpoints=weights + kept * last,
        bundle=weights + _golden_bytes(prepared) + _context_bytes(prepared),
        backtest=sum(_backtest_bytes(prepared, part) for part in _parts(prepared)),
        reports=REPORT_BYTES + int(readings * _READINGS_SHARE),
        map=mapped_bytes(prepared.panel),
    )


def mapped_bytes(panel: Panel) -> int:
    """Arrays of the panel that live in files."""
    return sum(value.nbytes for value in vars(panel).values() if isinstance(value, np.memmap))


def _parts(prepared: Prepared) -> tuple[Part, ...]:
    return ("val", "test") if prepared.config.data.test_size else ("val",)


def _golden_bytes(prepared: Prepared) -> int:
    network = prepared.forecaster.config
    channels = 2 + len(prepared.panel.columns.past_features)
    steps = network.context_length * channels + network.horizon * (channels + len(network.output_levels))
    return steps * _BYTES_PER_DIGITS


def _context_bytes(prepared: Prepared) -> int:
    length, columns = prepared.forecaster.config.context_length, prepared.panel.columns
    if not prepared.config.data.keep_context or context_bytes(prepared.panel, length) > MAX_CONTEXT_BYTES:
        return 0
    rows = int(np.minimum(prepared.panel.lengths, length).sum())
    return int(rows * _VALUE * (1 + len(columns.futr_exog) + len(columns.hist_exog))) + _TABLE_FOOTER


def _backtest_bytes(prepared: Prepared, part: Part) -> int:
    origins = build_origins(prepared.panel, prepared.splits, part, prepared.horizon, max_windows=MAX_BACKTEST_WINDOWS)
    columns = len(prepared.forecaster.config.output_levels) + len(_STORED_BESIDE)
    return int(len(origins.series) * prepared.horizon * columns * _FORECAST) + _TABLE_FOOTER
