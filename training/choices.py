"""What `null` in the configuration becomes: chosen from the data, and said aloud."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.config import SkipName
from training.config import TrainingConfig, build_config
from training.data.panel import Panel
from training.data_need import find_need, steps_to_cover
from training.errors import DataError, Problem
from training.gradients.need import Need
from training.start_choice import choose_initialization

# Horizon where the data has no season (M4 uses 6 for yearly and 8 for quarterly series).
HORIZON_WITHOUT_SEASON = 8
# Segments of the paper's experiments (Lin et al. 2023, 2308.11200).
LONGEST_SEGMENT = 24
# Segments read twice as far where the typical series has this many rows for every step of it: on series that long it forecast
# as well or better (daily ridership MASE 0.63 -> 0.59, electricity 0.53 -> 0.51), on 60 months worse (0.77 -> 0.79).
ROWS_PER_STEP = 20
# A series must hold the context once, and the horizon for training, validation and test.
MIN_SHARE = 3
# Architectures that get a linear way past the recurrence where their settings are left alone.
SKIPPING = ("gru", "lstm", "segrnn")


class Choices(NamedTuple):
    """A configuration without nulls that depend on the data.

    Attributes:
        config: Resolved.
        notes: One sentence per choice.
        need: How far back the data pays; None where nobody asked.
    """

    config: TrainingConfig
    notes: tuple[str, ...]
    need: Need | None


def resolve_choices(config: TrainingConfig, panel: Panel) -> Choices:
    """Fill in every null that depends on the data; what the user wrote stays.

    Args:
        config: As the user wrote it.
        panel: The data.

    Raises:
        DataError: If the series are too short for the horizon.
        NetworkConfigError: If the network cannot be built.
    """
    test_size = config.data.test_size
    chosen = _Chosen(config)
    freq_reason = "inferred from the timestamps" if panel.time_kind == "datetime" else "integer time"
    chosen.choose("data.freq", panel.freq, freq_reason)
    season = chosen.choose("data.season_length", panel.season_length, f"season of {panel.freq} data")
    horizon = chosen.choose("model.horizon", *_horizon(panel, season, test_size))
    _validate_lengths(panel, horizon)
    panel = panel.extended(horizon)
    need = find_need(chosen.config(), panel)
    chosen.choose("model.context_length", *_context_length(chosen.config(), panel, need, season, horizon))
    if config.model.architecture == "segrnn":
        chosen.choose("model.segment_length", *_segment_length(season, horizon))
    chosen.choose("optimizer.schedule", "one_cycle", "for a budget of fixed length")
    chosen.choose("tracking.model_name", model_name(config.data.path), "from the data file")
    if config.model.architecture != "linear":
        chosen.choose("model.skip", *_skip(config))
    if config.model.initialization is None:
        chosen.choose("model.initialization", *choose_initialization(chosen.config(), panel, steps_to_cover(need)))
    return Choices(chosen.config(), tuple(chosen.notes), need)


def choose_horizon(config: TrainingConfig, panel: Panel) -> int:
    """The horizon that `resolve_choices` would use."""
    if config.model.horizon is not None:
        return config.model.horizon
    return _horizon(panel, config.data.season_length or panel.season_length, config.data.test_size)[0]


class _Chosen:
    """What has been chosen so far; keys that the user set are not chosen."""

    def __init__(self, config: TrainingConfig) -> None:
        self.notes: list[str] = []
        self._config = config
        self._tree = config.model_dump()

    def choose(self, key: str, value: Any, reason: str) -> Any:
        """The user's value, or else this one, said aloud."""
        section, name = key.split(".")
        given = self._tree[section][name]
        if given is not None:
            return given
        self._tree[section][name] = value
        self.notes.append(f"{key} = {value} ({reason})")
        return value

    def config(self) -> TrainingConfig:
        """The configuration with the choices so far."""
        return build_config(self._tree)


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


def longest_context(config: TrainingConfig, panel: Panel) -> int:
    """The longest context worth trying: half of the typical series, test rows left out."""
    return max(1, _typical_rows(config, panel) // 2)


def _typical_rows(config: TrainingConfig, panel: Panel) -> int:
    return int(np.median(_lengths(panel))) - config.data.test_size


def _context_length(config: TrainingConfig, panel: Panel, need: Need | None, season: int, horizon: int) -> tuple[int, str]:
    steps = steps_to_cover(need)
    wanted, longest = max(steps, season, 2 * horizon), longest_context(config, panel)
    if wanted > longest:
        return longest, "half of the typical series"
    parts = [f"a need of {steps} steps"] if steps > 1 else []
    parts += [f"a season of {season}"] if season > 1 else []
    reason = f"covers {', '.join([*parts, 'two horizons'])}"
    if config.model.architecture == "segrnn" and _typical_rows(config, panel) >= ROWS_PER_STEP * 2 * wanted:
        return 2 * wanted, f"{reason}, twice: segments make it cheap, and the series are long"
    return wanted, reason


def _skip(config: TrainingConfig) -> tuple[SkipName, str]:
    model = config.model
    if model.architecture not in SKIPPING:
        return "none", f"{model.architecture} is kept as it is known"
    if model.decoder == "recursive":
        return "none", "a recursive decoder makes the horizon step by step"
    by_hand = [name for name in ("initialization", "forget_bias", "init_gain") if getattr(model, name) is not None]
    by_hand += ["num_layers"] if model.num_layers > 2 else []
    if by_hand or config.fit.tbptt_steps is not None:
        return "none", "whoever sets how the recurrence starts or ends wants to see what it does alone"
    return "linear", "what a linear map of the window can do need not be learned through the recurrence"


def _segment_length(season: int, horizon: int) -> tuple[int, str]:
    wanted, reason = (season, "one season") if 1 < season <= LONGEST_SEGMENT else (LONGEST_SEGMENT, "as in the paper")
    return (wanted, reason) if wanted <= horizon else (horizon, "the horizon")


def _validate_lengths(panel: Panel, horizon: int) -> None:
    longest = int(_lengths(panel).max())
    if longest < horizon + 2:
        message = f"the longest series has {longest} rows, too few to learn a horizon of {horizon}."
        raise DataError([Problem("series_too_short", "data", message, "Lower model.horizon or bring longer series.")])
