"""Data larger than memory: built part by part on disk, mapped, and equal to the panel in memory to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from training import pipeline
from training.config import DataConfig, load_config
from training.data import mapping
from training.data.mapped_files import GrowingFiles
from training.data.mapping import map_panel, maps_directory
from training.data.panel import Panel, load_panel
from training.data.parquet_folder import open_table
from training.data.windows import WindowStore


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows(num_series: int = 17) -> pd.DataFrame:
    """Gaps, covariates that begin late or are never there, text, future rows, and a series without any value."""
    random = np.random.default_rng(0)
    parts = []
    for number in range(num_series):
        length, ahead = 40 + 3 * number, number % 4
        hours = pd.date_range("2024-02-01", periods=length + ahead, freq="h")
        y = np.where(np.arange(len(hours)) < length, random.normal(size=len(hours)), np.nan)
        y[5:8] = np.nan
        heat = random.normal(size=len(hours))
        heat[: number % 5] = np.nan
        parts.append(
            pd.DataFrame({
                "unique_id": f"s{number}", "ds": hours, "y": np.nan if number == 4 else y,
                "heat": np.nan if number == 3 else heat, "promo": random.integers(0, 3, len(hours)).astype(float),
                "kind": np.where(random.random(len(hours)) < 0.5, "a", "b"),
                "size": np.nan if number == 2 else float(number), "region": f"r{number % 3}",
            })
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


SETTINGS: dict[str, Any] = {"futr_exog": ("promo", "kind"), "hist_exog": ("heat",), "stat_exog": ("size", "region")}


def write(folder: Path, frame: pd.DataFrame) -> Path:
    folder.mkdir()
    for number, first in enumerate(range(0, len(frame), 300)):
        frame.iloc[first : first + 300].to_parquet(folder / f"{number}.parquet", index=False, row_group_size=71)
    return folder


def in_memory(path: Path, **settings: Any) -> Panel:
    return load_panel(DataConfig(path=str(path), storage="memory", **settings), horizon=6)


def mapped(path: Path, part_rows: int = 200, **settings: Any) -> Panel:
    return map_panel(open_table(path, DataConfig(path=str(path), storage="map", **settings)), 6, part_rows=part_rows)


def assert_equal(one: Panel, other: Panel) -> None:
    assert one.fingerprint == other.fingerprint
    for name, value in vars(one).items():
        if name in ("notes", "storage", "fingerprint", "frequency"):
            continue
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)
        else:
            assert value == getattr(other, name), name


@pytest.mark.parametrize("fill", ["mask", "ffill", "linear", "zero"])
def test_the_mapped_panel_is_the_one_in_memory(tmp_path: Path, fill: str) -> None:
    """Every array and every choice, with covariates of all roles, vocabularies, calendar and what lies ahead."""
    path = write(tmp_path / "in", rows())
    one, other = in_memory(path, fill=fill, **SETTINGS), mapped(path, fill=fill, **SETTINGS)
    assert_equal(one, other)
    assert isinstance(other.values, np.memmap)
    assert other.future_extra.shape[1] == 3
    series, cutoff = torch.tensor([0, 5, 15]), torch.tensor([20, 40, 60])
    for expected, actual in zip(
        WindowStore(one, 24, 6).gather(series, cutoff), WindowStore(other, 24, 6).gather(series, cutoff), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("fill", ["mask", "linear"])
def test_a_table_on_a_grid_is_mapped_as_it_is_in_memory(tmp_path: Path, fill: str) -> None:
    """No covariates, no gaps, a missing value here and there: both ways go without a frame, part by part."""
    frame = rows(9)[["unique_id", "ds", "y"]].query("unique_id != 's4'")
    last = frame["unique_id"].map(frame.dropna().groupby("unique_id")["ds"].max())
    path = write(tmp_path / "in", frame[frame["ds"] <= last].reset_index(drop=True))
    one, other = in_memory(path, fill=fill), mapped(path, fill=fill)
    assert_equal(one, other)
    assert 0 < other.observed.sum() < len(other.observed)
    assert len(mapping.read_json(next(maps_directory().glob("*/store.json")))["parts"]) > 1


def test_training_from_the_map_ends_with_the_same_weights(tmp_path: Path) -> None:
    """To the last bit: the windows are the same numbers in the same order."""
    path = write(tmp_path / "in", rows())
    small = ("model.hidden_size=4", "model.context_length=12", "model.horizon=6", "fit.max_steps=12", "fit.val_check_steps=6",
             "gradients.preset=off", "tracking.register=false", "data.futr_exog=[promo,kind]", f"data.path={path}")  # fmt: skip
    weights = []
    for storage in ("memory", "map"):
        config = load_config(None, [*small, f"data.storage={storage}"])
        result = pipeline.train(config, output=tmp_path / storage)
        weights.append(result.prepared.forecaster.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_rows_apart_make_the_same_series_in_another_order(tmp_path: Path) -> None:
    """Files by day: every series has the same rows as in memory."""
    frame = rows()
    frame.assign(day=frame["ds"].dt.strftime("%m-%d")).to_parquet(tmp_path / "in", partition_cols=["day"], index=False)
    one, other = in_memory(tmp_path / "in", **SETTINGS), mapped(tmp_path / "in", **SETTINGS)
    assert sorted(one.ids) == sorted(other.ids)
    for index, name in enumerate(one.ids):
        place = other.ids.index(name)
        expected = slice(one.offsets[index], one.offsets[index + 1])
        actual = slice(other.offsets[place], other.offsets[place + 1])
        for array in ("values", "observed", "covariates"):
            np.testing.assert_array_equal(getattr(one, array)[expected], getattr(other, array)[actual])
        np.testing.assert_array_equal(one.static[index], other.static[place])
        np.testing.assert_array_equal(one.future_extra[index], other.future_extra[place])


def test_a_build_that_was_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished parts are not read again, what a killed process wrote behind them is cut off, and the result is the same."""
    path = write(tmp_path / "in", rows().drop(columns=["kind", "region"]))
    settings = {"futr_exog": ("promo",), "hist_exog": ("heat",), "stat_exog": ("size",)}
    append, count = GrowingFiles.append, 0

    def die_at_third(self: GrowingFiles, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            with (self.folder / "values").open("ab") as stream:
                stream.write(b"half a part")
            raise KeyboardInterrupt
        append(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(GrowingFiles, "append", die_at_third)
        with pytest.raises(KeyboardInterrupt):
            mapped(path, **settings)
    parts: list[int] = []
    monkeypatch.setattr(GrowingFiles, "append", lambda self, *rest: (parts.append(1), append(self, *rest))[1])
    other = mapped(path, **settings)
    assert_equal(in_memory(path, **settings), other)
    total = len(mapping.read_json(next(maps_directory().glob("*/store.json")))["parts"])
    assert len(parts) == total - 2


def test_a_store_is_built_once_and_never_believed_when_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time it is only opened; with a flipped byte it is built anew; other data has another store."""
    path = write(tmp_path / "in", rows())
    builds: list[int] = []
    run = mapping._Build.run
    monkeypatch.setattr(mapping._Build, "run", lambda self, part_rows: (builds.append(1), run(self, part_rows))[1])
    first = mapped(path, **SETTINGS)
    assert mapped(path, **SETTINGS).fingerprint == first.fingerprint
    assert len(builds) == 1
    values = next(maps_directory().glob("*/values"))
    content = bytearray(values.read_bytes())
    content[100] ^= 1
    values.write_bytes(content)
    assert mapped(path, **SETTINGS).fingerprint == in_memory(path, **SETTINGS).fingerprint
    assert len(builds) == 2
    pd.read_parquet(path / "0.parquet").assign(y=1.0).to_parquet(path / "0.parquet", index=False)
    assert mapped(path, **SETTINGS).fingerprint == in_memory(path, **SETTINGS).fingerprint != first.fingerprint
    assert len(builds) == 3


def test_large_tables_are_mapped_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes that the panel would take; `data.storage` has the last word."""
    path = write(tmp_path / "in", rows())

    def kinds() -> Iterator[type]:
        for storage in ("auto", "memory", "map"):
            yield type(load_panel(DataConfig(path=str(path), storage=storage), horizon=6).values)

    assert list(kinds()) == [np.ndarray, np.ndarray, np.memmap]
    monkeypatch.setattr(mapping, "MAP_THRESHOLD_BYTES", 1000)
    assert list(kinds()) == [np.memmap, np.ndarray, np.memmap]
