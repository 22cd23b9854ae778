"""The model that is deployed may know everything: after selection, one more fit on all rows for the steps that were chosen."""

from __future__ import annotations

import shutil
from dataclasses import replace

import torch

from models.conformal import SplitConformal
from models.forecaster import Forecaster
from training.data.splits import Splits
from training.data.windows import TrainingWindows, covariate_statistics
from training.gradients.schedule import never
from training.loop import Fit, FitData, FitState
from training.losses import ForecastLoss
from training.networks import build_network
from training.precision import DTYPES
from training.preparation import Prepared
from training.progress import FitProgress
from training.run_directory import RunDirectory
from training.scale_floor import series_scale_floor
from training.team import ALONE, Team
from training.tracking.tracker import NOOP_TRACKER
from training.warm_start import load_weights, open_warm_start


def all_rows(splits: Splits) -> Splits:
    """Splits whose training rows are all rows."""
    return replace(splits, train_end=splits.lengths, val_end=splits.lengths)


def fit_on_all_rows(
    prepared: Prepared,
    state: FitState,
    validation: tuple[torch.Tensor, torch.Tensor],
    loss: ForecastLoss,
    run: RunDirectory,
    progress: FitProgress,
    team: Team = ALONE,
) -> Prepared:
    """Fit a new network from the same start on training, validation and test rows, for as many steps as were chosen.

    Nothing selects any more, and nothing is left to measure it on: its scores are those of the fit that chose the steps.
    The learning rate follows the schedule of the whole budget up to the same step. Conformal shifts are those of
    the selected fit, whose validation rows were held out.

    Args:
        prepared: Data and the selected network.
        state: Of the selecting fit; its best step is the budget.
        validation: Windows whose loss is reported at the end; they are training rows now.
        loss: What to minimise.
        run: Where the fit keeps its checkpoints while it runs.
        progress: What the user sees of it.
        team: The processes that fit it together.

    Returns:
        The same with all rows as training rows and the new network.

    Raises:
        NumericalError: If a loss or gradient is not finite.
    """
    config, splits = prepared.config, all_rows(prepared.splits)
    torch.manual_seed(config.fit.seed)
    forecaster = build_network(config, prepared.panel, covariate_statistics(prepared.panel, splits))
    if config.fit.warm_start is not None:
        load_weights(forecaster, open_warm_start(config)[1])
    forecaster.to(device=prepared.store.device, dtype=DTYPES[config.fit.precision])
    floor = series_scale_floor(prepared.panel, splits, config.model.scaler != "none")
    data = FitData(
        prepared.store, TrainingWindows(prepared.store, splits), validation,
        floor.to(prepared.store.device, DTYPES[config.fit.precision]), prepared.panel.ids,
    )  # fmt: skip
    steps = max(1, state.best_step)
    budget = config.fit.model_copy(update={"val_check_steps": steps, "patience": None})
    place = run.path / "final"
    fit = Fit(
        forecaster, data, loss, budget, config.optimizer, never, place, NOOP_TRACKER, progress,
        is_hopeless=lambda _state: True,  # the first check is the last step
        team=team,
    )  # fmt: skip
    fit.run()
    shutil.rmtree(place, ignore_errors=not team.is_leader)
    _keep_shifts(prepared.forecaster, forecaster)
    return replace(prepared, splits=splits, forecaster=forecaster)


def _keep_shifts(selected: Forecaster, final: Forecaster) -> None:
    if isinstance(selected.calibration, SplitConformal) and isinstance(final.calibration, SplitConformal):
        final.calibration.set_shift(selected.calibration.shift)
