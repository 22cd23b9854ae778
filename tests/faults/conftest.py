"""Stores, data and random moments for the faults; every test starts from a fresh copy."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from models.bundle import BundleManifest, save_bundle
from models.config import GRUConfig
from models.registry import build_forecaster
from training.tracking.environment import open_client


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """Random moments: the same at every run of the suite, others for every repetition of the benchmark."""
    return random.Random(f"{os.environ.get('GRADCAST_FAULT_SEED', '0')} {request.node.name}")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Callable[[Path], str]:
    """Put a fresh store into a folder and tell its URI."""

    def copy(folder: Path = tmp_path) -> str:
        shutil.copyfile(empty_store, folder / "mlflow.db")
        with sqlite3.connect(folder / "mlflow.db") as connection:
            connection.execute("pragma journal_mode = wal")
        return f"sqlite:///{folder / 'mlflow.db'}"

    return copy


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle of a few kilobytes."""
    config = GRUConfig(context_length=8, horizon=2, hidden_size=4)
    directory = tmp_path_factory.mktemp("bundle") / "bundle"
    save_bundle(directory, build_forecaster(config), BundleManifest(network=config, freq="h", season_length=4))
    return directory


@pytest.fixture(scope="session")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short series to train on."""
    path = tmp_path_factory.mktemp("data") / "waves.csv"
    values = [10 + (step % 7) + (step * 37 % 11) / 10 for step in range(160)]
    path.write_text("ds,y\n" + "".join(f"{step},{value}\n" for step, value in enumerate(values)))
    return path
