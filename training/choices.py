"""What `null` in the configuration becomes: chosen from the data, and said aloud."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.config import InitializationName
from training.config import TrainingConfig, build_config
from training.data.panel import Panel
from training.errors import DataError, Problem

# Horizon where the data has no season (M4 uses 6 for yearly and 8 for quarterly series).
HORIZON_WITHOUT_SEASON = 8
# A series must hold the context once, and the horizon for training, validation and test.
MIN_SHARE = 3


def resolve_choices(config: TrainingConfig, panel: Panel) -> tuple[TrainingConfig, tuple[str, ...]]:
    """Fill in every null that depends on the data.

    Args:
        config: As the user wrote it.
        panel: The data.

    Returns:
        The configuration without those nulls, and one sentence per choice.

    Raises:
        DataError: If the series are too short for the horizon.
    """
    chosen: dict[str, Any] = {}
    notes: list[str] = []

    def choose(key: str, value: Any, reason: str) -> Any:
        section, name = key.split(".")
        given = getattr(getattr(config, section), "register_model" if name == "register" else name)
        if given is not None:
            return given
        chosen[key] = value
        notes.append(f"{key} = {value} ({reason})")
        return value

    freq_reason = "inferred from the timestamps" if panel.time_kind == "datetime" else "integer time"
    choose("data.freq", panel.freq, freq_reason)
    season = choose("data.season_length", panel.season_length, f"season of {panel.freq} data")
    horizon = choose("model.horizon", *_horizon(panel, season, config.data.test_size))
    need = config.gradients.need_steps or season
    choose("model.context_length", *_context_length(panel, need, horizon, config.data.test_size))
    _validate_lengths(panel, horizon)
    choose("model.initialization", *_initialization(config, panel, need))
    choose("optimizer.schedule", "one_cycle", f"for a budget of {config.fit.max_steps} steps")
    choose("tracking.model_name", model_name(config.data.path), "from the data file")
    return build_config(_assigned(config, chosen)), tuple(notes)


def model_name(path: str | None) -> str:
    """A registry name from a data file's name: letters, digits, `_` and `-`."""
    stem = Path(path or "model").name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "model"


def _lengths(panel: Panel) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.diff(panel.offsets)


def _horizon(panel: Panel, season: int, test_size: int) -> tuple[int, str]:
    typical = int(np.median(_lengths(panel))) - test_size
    wanted = season if season > 1 else HORIZON_WITHOUT_SEASON
    longest = max(1, typical // (2 * MIN_SHARE))
    if wanted <= longest:
        return wanted, "one season" if season > 1 else "no season in the data"
    return longest, f"a sixth of the typical series, which has {typical} rows"


def _context_length(panel: Panel, need: int, horizon: int, test_size: int) -> tuple[int, str]:
    wanted = max(need, 2 * horizon)
    longest = max(1, (int(np.median(_lengths(panel))) - test_size) // 2)
    if wanted <= longest:
        return wanted, f"covers {need} steps of need and two horizons"
    return longest, "half of the typical series"


def _validate_lengths(panel: Panel, horizon: int) -> None:
    longest = int(_lengths(panel).max())
    if longest < horizon + 2:
        message = f"the longest series has {longest} rows, too few to learn a horizon of {horizon}."
        raise DataError([Problem("series_too_short", "data", message, "Lower model.horizon or bring longer series.")])


def _initialization(config: TrainingConfig, panel: Panel, need: int) -> tuple[InitializationName, str]:
    architecture = config.model.architecture
    if architecture == "linear":
        return "torch", "a linear network has no recurrence"
    if architecture == "rnn":
        return "orthogonal", "keeps the gradient's length through an rnn longest"
    if panel.columns.calendar or panel.columns.futr_exog:
        return "forget_bias", "covariates say where in the season a step is, so a moderate memory is enough"
    if need > _FORGET_BIAS_REACH:
        return "chrono", f"a need of {need} steps is beyond a forget bias of 1, and no covariate tells the season"
    return "forget_bias", f"reaches a need of {need} steps"


# Lag at which a forget bias of 1 leaves a thousandth of the gradient at initialisation (measured, 64 units).
_FORGET_BIAS_REACH = 48


def _assigned(config: TrainingConfig, chosen: Mapping[str, Any]) -> dict[str, Any]:
    tree = config.model_dump()
    for key, value in chosen.items():
        section, name = key.split(".")
        tree[section][name] = value
    return tree
