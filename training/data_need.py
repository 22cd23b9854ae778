"""Need enters the run: how far back this data pays, estimated once, from the training rows alone."""

from __future__ import annotations

import numpy as np
import torch

from training.config import TrainingConfig
from training.data.panel import Panel
from training.data.splits import build_splits
from training.errors import DataError
from training.gradients.need import Need, estimate_need, need_windows
from training.threads import one_thread

# A need is looked for beyond what is likely to be chosen, or the answer would be known beforehand.
SEASONS_BACK, HORIZONS_BACK = 2, 4
# Where season, horizon and context are short, a need may still lie this far back.
MIN_LAG = 96
# The regression grows with the cube of it: about two seconds on one core.
MAX_LAG = 1500
# Where nothing can be estimated: nothing is known to pay.
NO_NEED = Need(1, "season")


def find_need(config: TrainingConfig, panel: Panel) -> Need | None:
    """How far back the data pays, with the covariates in place; the user's word beats any estimate.

    Args:
        config: With season and horizon; the context may be open.
        panel: The series.

    Returns:
        The need; None for a network without recurrence, and where neither instruments nor an open choice ask for it.
    """
    model, gradients = config.model, config.gradients
    if model.network == "linear":
        return None
    if gradients.preset == "off" and model.context_length is not None and model.initialization is not None:
        return None
    if gradients.need_steps is not None:
        return Need(gradients.need_steps, "declared")
    season, horizon = config.data.season_length or 1, model.horizon
    assert horizon is not None
    try:
        splits = build_splits(panel, horizon, config.data.val_size, config.data.test_size)
        with one_thread():
            windows = need_windows(panel, splits, longest_lag(panel, season, horizon, model.context_length), horizon)
            return estimate_need(windows, season, seed=config.fit.seed, per_window=model.scaler != "none")
    except (DataError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]  # torch's own stubs hide it
        # Data too short to split is reported by the fit itself, in its own words; what remains is nothing to go by.
        return NO_NEED


def longest_lag(panel: Panel, season: int, horizon: int, context: int | None) -> int:
    """Longest need worth looking for: two seasons, four horizons, the context, MIN_LAG; at most half of a usual series."""
    wanted = max(SEASONS_BACK * season, HORIZONS_BACK * horizon, context or 0, MIN_LAG)
    return max(min(wanted, int(np.median(panel.lengths)) // 2, MAX_LAG), 1)


def steps_to_cover(need: Need | None) -> int:
    """Steps that context and memory should cover: 1 where a regression showed that less reach costs nothing."""
    if need is None:
        return 1
    # Without errors there was no regression: a declared need, or the season as the best guess.
    return need.steps if need.is_shown or not need.errors else 1
