"""Real files: the shipped one always, those beside the repository where they are."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from training.config import DataConfig
from training.data.audit import Audit, audit_file
from training.data.panel import load_panel
from training.data.shipped import shipped_path
from training.data.splits import build_splits
from training.data.windows import TrainingWindows, WindowStore
from training.errors import DataError


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            "needs the collection of evaluation data beside the repository (../shared/data), which is not shipped"
        )
    return folder


def found(audit: Audit) -> set[str]:
    return {problem.code for problem in audit.problems}


def test_shipped_data_is_the_documented_file_and_attributed() -> None:
    """The shipped file is the published cut, compressed without a time stamp, with source, licence and changes beside it."""
    path = shipped_path("metro_traffic")
    content = path.read_bytes()
    assert content[4:8] == b"\x00\x00\x00\x00"
    assert hashlib.sha256(gzip.decompress(content)).hexdigest().startswith("ab29bedd88aae168")
    attribution = (path.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for said in ("Hogue", "10.24432/C5X60B", "CC BY 4.0", "What was changed"):
        assert said in attribution


def test_demo_data_has_a_weekly_season_and_its_gaps() -> None:
    """Hourly traffic comes out with 168 steps per season, 66 hours missing, and covariates of every kind."""
    config = DataConfig(
        path=str(shipped_path()), futr_exog=("is_holiday",), hist_exog=("temp_c", "weather_main"), test_size=672
    )
    panel = load_panel(config, horizon=24)
    assert (panel.freq, panel.season_length) == ("h", 168)
    assert len(panel.values) == 15_312
    assert int((~panel.observed).sum()) == 66
    assert panel.columns.future_features[0] == "is_holiday"
    assert "weather_main=Clear" in panel.columns.past_features
    splits = build_splits(panel, 24, config.val_size, config.test_size)
    windows = TrainingWindows(WindowStore(panel, 168, 24), splits)
    assert windows.num_windows == splits.train_end[0] - 24 - 168 + 1


def test_audit_of_the_demo_data_is_clean() -> None:
    """The shipped file is usable as it is, and its gaps are named."""
    audit = audit_file(shipped_path(), DataConfig())
    assert audit.is_usable
    assert "gaps" in found(audit)


def test_m4_series_of_different_lengths_and_eras_are_one_panel(shared_data: Path) -> None:
    """414 hourly series of 700 to 960 rows, years apart, load without a gap, and each reads its own calendar."""
    panel = load_panel(DataConfig(path=str(shared_data / "benchmark" / "m4_hourly_train.csv.gz")), horizon=48)
    assert panel.num_series == 414
    assert len(panel.values) == 353_500
    assert panel.observed.all()
    assert panel.season_length == 24
    assert len(np.unique(panel.lengths)) > 1
    assert len(panel.calendar) < len(panel.values) / 5


def test_half_hours_with_offsets_are_regular(shared_data: Path) -> None:
    """Three years of local time with both changes have no missing step, and their zone is an Australian one."""
    panel = load_panel(DataConfig(path=str(shared_data / "demo" / "vic_elec_halfhourly_tz.csv.gz")))
    assert (panel.freq, panel.season_length) == ("30min", 336)
    assert panel.observed.all()
    assert panel.timezone == "Australia/Melbourne"
    assert str(panel.timestamps(0, 0, 1)[0]) == "2012-01-01 00:00:00+11:00"


def test_monash_file_is_read(shared_data: Path) -> None:
    """The archive's text format gives 299 weekly series of 156 weeks."""
    panel = load_panel(DataConfig(path=str(shared_data / "benchmark" / "ausgrid_weekly.tsf")))
    assert panel.num_series == 299
    assert (panel.lengths == 156).all()
    assert panel.season_length == 52


@pytest.mark.parametrize("folder", ["classic", "demo"])
def test_every_good_file_loads(shared_data: Path, folder: str) -> None:
    """Every regular file loads without any setting, and the audit calls it usable."""
    paths = sorted((shared_data / folder).glob("*"))
    assert paths
    for path in paths:
        assert load_panel(DataConfig(path=str(path))).num_series >= 1, path.name
        assert audit_file(path, DataConfig()).is_usable, path.name


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("air_quality_uci_raw.csv.gz", {"column_missing", "columns_suggested", "sentinel", "file_format"}),
        ("ansett_weekly_strike.csv.gz", {"gaps"}),
        (
            "birmingham_parking_irregular.csv.gz",
            {"duplicate_timestamps", "irregular_timestamps", "above_capacity", "columns_suggested"},
        ),
        (
            "eco2mix_rte_latin1.xls",
            {"column_missing", "covariate_not_numeric", "time_unreadable", "file_format", "missing_values"},
        ),
        (
            "metro_traffic_raw.csv.gz",
            {"duplicate_timestamps", "gaps", "sentinel", "outliers", "covariate_none", "columns_suggested"},
        ),
        ("mixed_frequencies_long.csv", {"mixed_frequencies", "missing_values"}),
        ("monthly_milk_incomplete.csv", {"gaps"}),
        ("nab_flatline_constant.csv.gz", {"constant"}),
        ("nab_machine_temperature_dups.csv.gz", {"duplicate_timestamps", "unsorted"}),
        ("nab_rogue_agent_irregular.csv.gz", {"gaps", "many_zeros"}),
        ("online_retail_daily_intermittent.csv.gz", {"gaps", "negative_values", "short"}),
        ("uk_daily_flights_bom.csv", {"file_format", "level_change"}),
        ("world_bank_annual_scales.csv.gz", {"all_missing", "missing_values", "short", "scales_differ"}),
    ],
)
def test_nasty_files_are_found_out(shared_data: Path, name: str, codes: set[str]) -> None:
    """What is known to be wrong in each file is found, with a fix; and training agrees with the audit."""
    path = shared_data / "nasty" / name
    audit = audit_file(path, DataConfig())
    assert codes <= found(audit)
    assert all(
        problem.fix for problem in audit.problems if problem.severity != "info" and problem.code != "column_missing"
    )
    try:
        load_panel(DataConfig(path=str(path)))
    except DataError:
        assert not audit.is_usable
    else:
        assert audit.is_usable
