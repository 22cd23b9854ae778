"""From a configuration and a file to everything a fit needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from models.config import COUNT_HEADS
from models.forecaster import Forecaster
from training import assembly
from training.config import DataConfig, TrainingConfig
from training.data.counts import validate_counts
from training.data.mapping import SilentWatch, Watch
from training.data.panel import Panel, load_panel
from training.data.splits import Splits, build_splits
from training.data.windows import WindowStore
from training.errors import ConfigurationError, Problem
from training.gradients.need import Need
from training.loop import FitData
from training.network_choice import choose_network
from training.warm_start import load_weights, open_warm_start

MAX_VALIDATION_WINDOWS = 1024
# Keys whose null is filled in from the panel; set, the same rows would be read into another store.
FOUND_IN_DATA = ("data.freq", "data.season_length", "model.horizon")


@dataclass(frozen=True)
class Prepared:
    """Everything a fit needs, built from the configuration and the data.

    Attributes:
        config: Without nulls that depend on the data.
        notes: What was chosen, one sentence each.
        panel: The series.
        splits: Where training, validation and test rows end.
        store: Windows by index.
        forecaster: The network at its initialisation, on its device.
        need: How far back the data pays; None for a network without recurrence, and without instruments where nothing
            is chosen by it.
        seconds: Time taken.
        left_open: Keys of `FOUND_IN_DATA` that were null when the data was read.
        known_until: Last timestamp that the weights of a warm start were trained on; empty without one.
    """

    config: TrainingConfig
    notes: tuple[str, ...]
    panel: Panel
    splits: Splits
    store: WindowStore
    forecaster: Forecaster
    need: Need | None
    seconds: float
    left_open: tuple[str, ...] = ()
    known_until: str = ""

    @property
    def horizon(self) -> int:
        """Steps forecast."""
        return self.forecaster.config.horizon


def prepare(
    config: TrainingConfig,
    panel: Panel | None = None,
    watch: Watch | None = None,
    left_open: Collection[str] | None = None,
    may_train: bool = True,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Prepared:
    """Read the data, fill in the nulls, split, and build the network.

    Args:
        config: As the user wrote it.
        panel: The data of `config.data`, where it has been read already.
        watch: Told how far reading is where it takes long, and training to choose a network.
        left_open: Of a configuration whose nulls were filled in since: those of the first reading, so that this one
            gives the same panel to the bit, and finds the same memory map.
        may_train: Whether a network that was left open may be chosen by training; else it is the one that mostly wins.
        stop_requested: Ends that training early, and with it the use of what is prepared.

    Raises:
        ConfigurationError: If no data file is named.
        DataError: If the data cannot be trained on.
        NetworkConfigError: If the network cannot be built.
        GradcastError: If the version to start from cannot be had.
    """
    started = time.perf_counter()
    if config.data.path is None:
        raise ConfigurationError(
            [Problem("config_missing", "data.path", "must name a data file.", "Give --data FILE.")]
        )
    bundle = None
    if config.fit.warm_start is not None:
        config, bundle = open_warm_start(config)
    columns = None if bundle is None else bundle.manifest.columns
    opened = _left_open(config) if left_open is None else tuple(left_open)
    if panel is None:
        data, horizon_read = _as_read(config, opened)
        panel = load_panel(data, horizon_read, columns, watch)
    if config.model.head in COUNT_HEADS:
        validate_counts(panel, config.model.head)
    device = choose_device(config.fit.device)
    if config.fit.num_threads is not None:
        torch.set_num_threads(config.fit.num_threads)
    config, notes, need = choose_network(config, panel, device, may_train, watch or SilentWatch(), stop_requested)
    assert config.model.horizon is not None
    splits = build_splits(panel, config.model.horizon, config.data.val_size, config.data.test_size)
    panel, store, forecaster = assembly.assemble(config, panel, splits, device)
    if bundle is not None:
        load_weights(forecaster, bundle)
    seconds = time.perf_counter() - started
    said = (*notes, *panel.notes, *splits.notes)
    known_until = "" if bundle is None else bundle.manifest.trained_until
    return Prepared(config, said, panel, splits, store, forecaster, need, seconds, opened, known_until)


def _left_open(config: TrainingConfig) -> tuple[str, ...]:
    tree = config.model_dump()
    return tuple(key for key in FOUND_IN_DATA if tree[key.partition(".")[0]][key.partition(".")[2]] is None)


def _as_read(config: TrainingConfig, left_open: Collection[str]) -> tuple[DataConfig, int]:
    """Data configuration and horizon of the first reading."""
    nulls = {key.partition(".")[2]: None for key in left_open if key.startswith("data.")}
    horizon = 0 if "model.horizon" in left_open else config.model.horizon
    return config.data.model_copy(update=nulls), horizon or 0


def build_fit_data(prepared: Prepared) -> FitData:
    """Training windows, the fixed validation windows, and what their errors are measured in."""
    return assembly.build_fit_data(
        prepared.config, prepared.panel, prepared.store, prepared.splits, MAX_VALIDATION_WINDOWS
    )


def choose_device(name: str) -> torch.device:
    """The named device; auto = cuda if there is one, else the CPU.

    Raises:
        ConfigurationError: If the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.partition(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[kind]:
        raise ConfigurationError(
            [Problem("device_unavailable", "fit.device", f"{name} is not available here.", "Use auto.")]
        )
    return torch.device(name)
