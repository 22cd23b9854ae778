"""Forecasts from folders of parquet into folders of parquet: the same numbers, whatever the files and whoever was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from models.bundle import Bundle, BundleManifest, load_bundle, save_bundle
from models.columns import Columns
from models.config import GRUConfig
from models.registry import build_forecaster
from training.bulk.crew import Answer, Crew
from training.bulk.parts import write_part
from training.bulk.plan import Manifest
from training.bulk.run import BulkRequest, forecast_in_bulk
from training.bulk.worker import open_plan
from training.config import DataConfig
from training.data.parquet_folder import open_table
from training.data.series_order import find_cuts
from training.errors import ConfigurationError, DataError
from training.forecasting import forecast_frame
from training.progress import CountProgress

HORIZON = 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A network that nobody trained, with a covariate known ahead and one of the past."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "bundle"
    columns = Columns(futr_exog=("promo",), hist_exog=("heat",), stat_exog=("region",), categories={"region": ("north", "south")})
    network = GRUConfig(context_length=8, horizon=HORIZON, hidden_size=4, num_past_covariates=2, num_future_covariates=1,
                        num_static_covariates=2)  # fmt: skip
    save_bundle(folder, build_forecaster(network), BundleManifest(network=network, columns=columns, freq="D"))
    return load_bundle(folder)


def recent(num_series: int = 23, seed: int = 0) -> pd.DataFrame:
    """Series of different length, with gaps and with covariates ahead."""
    random = np.random.default_rng(seed)
    parts = []
    for number in range(num_series):
        length = 10 + number % 7
        days = pd.date_range("2024-01-01", periods=length + HORIZON, freq="D")
        y = np.where(np.arange(len(days)) < length, random.normal(size=len(days)).round(3), np.nan)
        y[3] = np.nan
        parts.append(
            pd.DataFrame({
                "unique_id": f"series {number:02d}", "ds": days, "y": y, "promo": random.integers(0, 2, len(days)) * 1.0,
                "heat": random.normal(size=len(days)), "region": "north" if number < num_series // 2 else "south",
            })
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


CONFIG = DataConfig(futr_exog=("promo",), hist_exog=("heat",), stat_exog=("region",))


class Here(Crew):
    """Parts are written here instead of in processes of their own, which take seconds to start."""

    def __init__(self) -> None:
        super().__init__(0)

    def join(self, output: Path, lock: int) -> None:
        self.output = output

    def write(self, numbers: Sequence[int], on_done: Callable[[Answer], None]) -> None:
        plan, model, table = open_plan(self.output)
        for number in numbers:
            on_done(write_part(model, table, plan.parts[number], self.output, number).model_dump(mode="json"))


def forecast(bundle: Bundle, source: Path, output: Path, part_rows: int = 60, data: DataConfig = CONFIG) -> Manifest:
    return forecast_in_bulk(bundle, BulkRequest(source, output, data, part_rows), Here(), CountProgress(quiet=True))


def read(output: Path) -> pd.DataFrame:
    """All rows of an output folder, as pyarrow finds them by itself."""
    frame = pq.read_table(output, partitioning=None).to_pandas()
    return frame.sort_values(["unique_id", "ds"], ignore_index=True)


def write_rows(folder: Path, frame: pd.DataFrame, edges: Sequence[int]) -> Path:
    for number, (start, stop) in enumerate(pairwise(edges)):
        folder.mkdir(exist_ok=True)
        frame.iloc[start:stop].to_parquet(folder / f"{number}.parquet", index=False, row_group_size=37)
    return folder


@pytest.mark.parametrize("kind", ["one file", "cut anywhere", "by region", "by series", "by day", "shuffled"])
def test_every_arrangement_of_files_gives_the_forecasts_of_one_table(tmp_path: Path, bundle: Bundle, kind: str) -> None:
    """Up to the rounding of other batches: rows may lie in one file or many, by partition, or anyhow."""
    frame, source = recent(), tmp_path / "in"
    expected = forecast_frame(bundle, frame).sort_values(["unique_id", "ds"], ignore_index=True)
    if kind == "one file":
        source = tmp_path / "in.parquet"
        frame.to_parquet(source, index=False, row_group_size=50)
    elif kind == "cut anywhere":
        write_rows(source, frame, [0, 5, 100, 101, 250, len(frame)])
    elif kind == "by day":
        frame.assign(day=frame["ds"].dt.strftime("%Y-%m-%d")).to_parquet(source, partition_cols=["day"], index=False)
    elif kind == "shuffled":
        write_rows(source, frame.sample(frac=1.0, random_state=1), [0, 100, len(frame)])
    else:
        frame.to_parquet(source, partition_cols=["region"] + ["unique_id"] * (kind == "by series"), index=False)
    manifest = forecast(bundle, source, tmp_path / "out")
    actual = read(tmp_path / "out")
    assert list(actual.columns) == list(expected.columns) == list(manifest.columns)
    assert actual["unique_id"].tolist() == expected["unique_id"].tolist()
    assert (actual["ds"] == expected["ds"]).all()
    np.testing.assert_allclose(actual.iloc[:, 2:], expected.iloc[:, 2:], rtol=2e-5, atol=2e-6)
    assert len(manifest.parts) > 2
    assert (manifest.num_series, manifest.num_rows, manifest.num_refused) == (23, 23 * HORIZON, 0)
    by_region = kind.startswith("by ") and kind != "by day"
    assert {Path(part.name).parent.name for part in manifest.parts} == ({"region=north", "region=south"} if by_region else {""})
    assert {path.name for path in (tmp_path / "out").glob("_*")} == {"_manifest.json", "_lock"}


def test_cuts_lie_between_series_and_nowhere_else(tmp_path: Path) -> None:
    """Against all boundaries, listed one by one: a part ends with the first series that fills it."""
    random = np.random.default_rng(3)
    for trial in range(5):
        lengths = random.integers(1, 40, 30)
        names = np.repeat([f"s{number}" for number in random.permutation(30)], lengths)
        frame = pd.DataFrame({"unique_id": names, "ds": np.arange(len(names)), "y": 1.0})
        edges = np.unique([0, *random.integers(0, len(names), 4), len(names)])
        table = open_table(write_rows(tmp_path / str(trial), frame, edges.tolist()), DataConfig())
        expected, ends = [0], np.cumsum(lengths)
        for end in ends[:-1]:
            if end >= expected[-1] + 100:
                expected.append(int(end))
        assert find_cuts(table, 100) == (*expected, len(names))
    apart = pd.concat([frame, frame.iloc[:1].assign(ds=-1)])
    apart.to_parquet(tmp_path / "apart.parquet", index=False)
    assert find_cuts(open_table(tmp_path / "apart.parquet", DataConfig()), 100) is None


def test_a_bad_series_is_named_and_costs_the_others_nothing(tmp_path: Path, bundle: Bundle) -> None:
    """A repeated time, a series without a value: both named with what is wrong; all others are forecast."""
    frame = recent()
    good = forecast_frame(bundle, frame[~frame["unique_id"].isin(["series 04", "series 11"])])
    frame.loc[frame["unique_id"] == "series 11", "y"] = np.nan
    twice = frame[frame["unique_id"] == "series 04"].iloc[:1]
    pd.concat([frame, twice], ignore_index=True).to_parquet(tmp_path / "in.parquet", index=False)
    manifest = forecast(bundle, tmp_path / "in.parquet", tmp_path / "out")
    refused = {refusal.unique_id: refusal.code for part in manifest.parts for refusal in part.refused}
    assert refused == {"series 04": "duplicate_timestamps", "series 11": "target_all_missing"}
    actual = read(tmp_path / "out")
    expected = good.sort_values(["unique_id", "ds"], ignore_index=True)
    assert actual["unique_id"].tolist() == expected["unique_id"].tolist()
    np.testing.assert_allclose(actual["mean"], expected["mean"], rtol=2e-5, atol=2e-6)


def test_a_covariate_never_seen_is_what_training_saw_on_average(tmp_path: Path, bundle: Bundle) -> None:
    """So that a series' forecast does not depend on which others share its part."""
    frame = recent()
    frame.loc[frame["unique_id"] == "series 03", "heat"] = np.nan
    frame.to_parquet(tmp_path / "in.parquet", index=False)
    forecast(bundle, tmp_path / "in.parquet", tmp_path / "small", part_rows=20)
    forecast(bundle, tmp_path / "in.parquet", tmp_path / "large", part_rows=10_000)
    small, large = read(tmp_path / "small"), read(tmp_path / "large")
    np.testing.assert_allclose(small["mean"], large["mean"], rtol=2e-5, atol=2e-6)


def test_another_input_or_a_foreign_folder_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    """What lies in the output folder is never mixed with another forecast, nor overwritten; the same again is done."""
    source, output = write_rows(tmp_path / "in", recent(), [0, 100, 368]), tmp_path / "out"
    manifest = forecast(bundle, source, output)
    assert forecast(bundle, source, output) == manifest
    recent(seed=1).iloc[:100].to_parquet(source / "0.parquet", index=False)
    with pytest.raises(ConfigurationError, match="another input"):
        forecast(bundle, source, output)
    with pytest.raises(ConfigurationError, match=r"holds 0\.parquet instead"):
        forecast(bundle, source, source)
    (source / "notes.txt").write_text("not data")
    with pytest.raises(DataError, match=r"with notes\.txt in it"):
        forecast(bundle, source, tmp_path / "other")


def test_files_with_other_columns_are_refused_by_name(tmp_path: Path, bundle: Bundle) -> None:
    """A column that a later file lacks, or holds as text, is named with the file."""
    source = write_rows(tmp_path / "in", recent(), [0, 100, 368])
    frame = pd.read_parquet(source / "1.parquet").drop(columns="promo").assign(y="much")
    frame.to_parquet(source / "1.parquet", index=False)
    with pytest.raises(DataError, match=r"(?s)1\.parquet, column 'y'.*1\.parquet, column 'promo': must be double"):
        forecast(bundle, source, tmp_path / "out")


@pytest.mark.network
def test_killed_in_the_middle_it_goes_on_and_ends_as_if_nothing_had_been(tmp_path: Path, bundle: Bundle) -> None:
    """kill -9 of the whole command between two parts: started again it keeps what is done, and no row is missing or doubled."""
    frame = pd.concat([recent(200, seed).assign(unique_id=lambda f, s=seed: f"{s} " + f["unique_id"]) for seed in range(6)])
    source, output = write_rows(tmp_path / "in", frame, [0, 7000, 12000, len(frame)]), tmp_path / "out"
    command = [sys.executable, "-m", "training", "forecast", "--bundle", str(bundle.directory), "--data", str(source),
               "--output", str(output), "--part-rows", "100", "--workers", "2", "--json"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    deadline = time.monotonic() + 300
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        while len(list(output.glob("part-*.parquet"))) < 5 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (output / "_manifest.json").exists()
    noted = [json.loads(path.read_text())["name"] for path in (output / "_done").glob("*.json")]
    before = {name: (output / name).stat().st_mtime_ns for name in noted}

    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300)

    manifest = Manifest.model_validate_json(result.stdout)
    assert 5 <= len(before) + 2 < len(manifest.parts)
    assert before == {name: (output / name).stat().st_mtime_ns for name in before}
    actual = read(output)
    assert len(actual) == manifest.num_rows == 6 * 200 * HORIZON
    assert not actual.duplicated(["unique_id", "ds"]).any()
    assert {path.relative_to(output).as_posix() for path in output.rglob("*.parquet")} == {part.name for part in manifest.parts}
    expected = forecast_frame(bundle, frame).sort_values(["unique_id", "ds"], ignore_index=True)
    assert actual["unique_id"].tolist() == expected["unique_id"].tolist()
    np.testing.assert_allclose(actual.iloc[:, 2:], expected.iloc[:, 2:], rtol=2e-5, atol=2e-6)
