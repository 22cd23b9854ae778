"""The audit finds what is wrong, says where, and never raises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.config import DataConfig
from training.data.audit import Audit, AuditProblem, audit_file


def audit(folder: Path, text: str | bytes, name: str = "data.csv", **config: Any) -> Audit:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return audit_file(path, DataConfig(**config))


def of(result: Audit, code: str) -> list[AuditProblem]:
    return [problem for problem in result.problems if problem.code == code]


def series_csv(y: list[Any] | np.ndarray, start: str = "2020-01-01", freq: str = "D", **columns: Any) -> str:
    frame = pd.DataFrame({"unique_id": "a", "ds": pd.date_range(start, periods=len(y), freq=freq), "y": y, **columns})
    return frame.to_csv(index=False)


def wave(length: int = 60) -> np.ndarray:
    return 10 + np.sin(np.arange(length)) + 0.01 * np.arange(length)


def test_clean_file_has_no_findings(tmp_path: Path) -> None:
    """A good file is usable, without a single finding, and its summary is right."""
    result = audit(tmp_path, series_csv(wave()))
    assert result.problems == ()
    assert result.is_usable
    assert result.summary["rows"] == 60
    assert result.summary["freq"] == "D"
    assert result.summary["season_length"] == 7
    assert result.summary["end"] == "2020-02-29 00:00:00"


def test_duplicates_carry_series_line_and_kind(tmp_path: Path) -> None:
    """A repeated time is an error with the line of the repetition, and says whether the values agree."""
    lines = series_csv(wave()).splitlines()
    (problem,) = of(audit(tmp_path, "\n".join([*lines[:5], lines[4], *lines[5:]])), "duplicate_timestamps")
    assert (problem.severity, problem.series, problem.row, problem.count) == ("error", "a", 6, 1)
    assert "same y" in problem.message
    (problem,) = of(audit(tmp_path, "\n".join([*lines, "a,2020-01-04,99"])), "duplicate_timestamps")
    assert problem.row == len(lines) + 1
    assert "another y" in problem.message


def test_gaps_are_counted_and_placed(tmp_path: Path) -> None:
    """Absent rows are counted; the line after the longest gap is named."""
    lines = series_csv(wave()).splitlines()
    (problem,) = of(audit(tmp_path, "\n".join(lines[:10] + lines[12:30] + lines[31:])), "gaps")
    assert (problem.severity, problem.row, problem.count) == ("info", 11, 3)
    assert "2 gap(s)" in problem.message
    (problem,) = of(audit(tmp_path, "\n".join(lines[:10] + lines[30:])), "gaps")
    assert problem.severity == "warning"


def test_the_hour_of_summer_time_is_recognised(tmp_path: Path) -> None:
    """An hour absent on the Sunday of the change is said to look like it."""
    times = pd.date_range("2021-03-01", "2021-04-15", freq="h").drop(pd.Timestamp("2021-03-28 02:00"))
    frame = pd.DataFrame({"ds": times, "y": wave(len(times))})
    (problem,) = of(audit(tmp_path, frame.to_csv(index=False)), "gaps")
    assert "daylight saving" in problem.message


@pytest.mark.parametrize(
    ("y", "code", "row", "count"),
    [
        ([*wave(20), np.nan, np.nan, *wave(20)], "missing_values", 22, 2),
        ([5.0] * 30, "constant", 2, 30),
        ([np.nan] * 30, "all_missing", 2, 30),
        ([*wave(5)], "short", 2, 5),
        ([*wave(150), -3.0, *wave(150)], "negative_values", 152, 1),
        ([0.0, 1.0, 0.0, 2.0] * 10, "many_zeros", 2, 20),
        ([*wave(40), 1e6, *wave(20)], "outliers", 42, 1),
        ([*wave(40), -999, -999, *wave(20), -999], "sentinel", 42, 3),
        ([*wave(40), *[7.0] * 30, *wave(20)], "stuck_value", 42, 30),
        ([*(100 * wave(150)), *wave(150)], "level_change", None, 1),
        (1e9 + wave(60), "precision", None, 60),
        (["1", "ND", "3"] * 10, "target_not_numeric", 3, 10),
        ([*wave(20), np.inf, *wave(20)], "target_infinite", 22, 1),
    ],
)
def test_problems_of_one_series(tmp_path: Path, y: Any, code: str, row: int | None, count: int) -> None:
    """Each kind of problem is found with the series, the line of its first row and the number of rows."""
    (problem,) = of(audit(tmp_path, series_csv(y)), code)
    assert problem.series == "a"
    assert problem.count == count
    assert row is None or problem.row == row
    assert problem.fix


def test_lines_are_right_in_wide_files(tmp_path: Path) -> None:
    """In a wide file the line is that of the row, for every column."""
    frame = pd.DataFrame({"date": pd.date_range("2020", periods=60), "n": wave(), "s": wave()})
    frame.loc[40, "s"] = 1e7
    (problem,) = of(audit(tmp_path, frame.to_csv(index=False)), "outliers")
    assert (problem.series, problem.row) == ("s", 42)


def test_unsorted_rows_are_a_warning(tmp_path: Path) -> None:
    """A step back in time is placed."""
    lines = series_csv(wave()).splitlines()
    lines[20], lines[21] = lines[21], lines[20]
    (problem,) = of(audit(tmp_path, "\n".join(lines)), "unsorted")
    assert (problem.severity, problem.row) == ("warning", 22)


def test_missing_columns_lead_to_a_suggestion_with_which_the_audit_goes_on(tmp_path: Path) -> None:
    """A foreign header is an error; the guess is printed as options, and the data behind it is audited."""
    frame = pd.DataFrame(
        {
            "holiday": "None",
            "temp": 280 + wave(),
            "date_time": pd.date_range("2020", periods=60),
            "traffic_volume": wave(),
        }
    )
    frame.loc[30, "temp"] = 0.0
    frame.loc[50, "traffic_volume"] = 1e7
    frame = pd.concat([frame] * 3)  # enough rows to call a 0 impossible; repeated times are a finding of their own
    result = audit(tmp_path, frame.to_csv(index=False))
    assert not result.is_usable
    (suggestion,) = of(result, "columns_suggested")
    assert suggestion.fix == "--set data.time_col=date_time --set data.target_col=traffic_volume"
    assert of(result, "duplicate_timestamps")[0].count == 120
    assert of(result, "outliers")[0].row == 52
    assert "'temp' is 0" in of(result, "sentinel")[0].message
    assert of(result, "sentinel")[0].row == 32
    assert "'None'" in of(result, "covariate_none")[0].message
    used = audit(tmp_path, frame[:60].to_csv(index=False), time_col="date_time", target_col="traffic_volume")
    assert used.is_usable


def test_series_column_is_suggested(tmp_path: Path) -> None:
    """A column of few repeated names is proposed as the series; values over a capacity are found."""
    parts = [
        pd.DataFrame(
            {
                "SystemCode": name,
                "Capacity": 12,
                "Occupancy": wave(),
                "LastUpdated": pd.date_range("2020", periods=60, freq="h"),
            }
        )
        for name in ("lot A", "lot B")
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame.loc[70, "Occupancy"] = 15
    result = audit(tmp_path, frame.to_csv(index=False))
    assert "data.id_col=SystemCode" in of(result, "columns_suggested")[0].fix
    (problem,) = of(result, "above_capacity")
    assert (problem.series, problem.row) == ("lot B", 72)


def test_configured_covariates_are_checked(tmp_path: Path) -> None:
    """Columns with a role are errors where training would refuse them; others are named as unused."""
    text = series_csv(wave(160), w=[f"n{i % 80}" for i in range(160)], t=["1", "2", "3", "ND"] * 40, free=1)
    result = audit(tmp_path, text, hist_exog=("w", "t"))
    assert of(result, "covariate_categories")[0].severity == "error"
    assert "'ND'" in of(result, "covariate_not_numeric")[0].message
    assert "free" in of(result, "columns_unused")[0].message
    assert audit(tmp_path, text).is_usable


def test_similar_names_and_scales(tmp_path: Path) -> None:
    """Names that differ in case alone, and series of very different size, are said."""
    parts = [
        pd.DataFrame({"unique_id": name, "ds": pd.date_range("2020", periods=60), "y": factor * wave()})
        for name, factor in (("Shop", 1), ("shop", 1e6))
    ]
    result = audit(tmp_path, pd.concat(parts).to_csv(index=False))
    assert of(result, "ids_similar")
    assert of(result, "scales_differ")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "data_empty"),
        (b"PK\x03\x04", "file_unreadable"),
        (b"a,b\nx,y\nz,w\n", "columns_not_found"),
        (b"ds,y\n01/02/2020,1\n02/02/2020,2\n", "time_ambiguous"),
        (b"ds,y\n2020-01-01,1\nsoon,2\n2020-01-03,3\n", "time_unreadable"),
        (
            b"ds,y\n2020-01-01 07:59,1\n2020-01-01 08:26,2\n2020-01-01 08:59,3\n2020-01-01 09:32,3\n2020-01-01 10:05,3\n",
            "irregular_timestamps",
        ),
        (b"ds,y\n2020-01-01,1,2\n", "row_ragged"),
        (b"ds,y\n2020-01-01,1\n", "freq_unknown"),
    ],
)
def test_refusals_become_findings(tmp_path: Path, content: bytes, code: str) -> None:
    """Whatever training refuses is an error of the audit with the same code, never an exception."""
    result = audit(tmp_path, content)
    assert code in {problem.code for problem in result.problems if problem.severity == "error"}
    assert not result.is_usable


def test_text_and_json_say_the_same(tmp_path: Path) -> None:
    """The text names every shown finding with series and line; the document is plain JSON with all of them."""
    result = audit(tmp_path, series_csv([*wave(40), 1e6, *wave(20)]))
    assert "series 'a', line 42" in result.to_text()
    document = json.loads(json.dumps(result.to_dict()))
    assert document["problems"][0]["row"] == 42
    assert document["is_usable"] is True


def test_long_lists_are_cut_with_their_count(tmp_path: Path) -> None:
    """Text shows a few of many like findings and says how many there are."""
    parts = [pd.DataFrame({"unique_id": f"s{i}", "ds": pd.date_range("2020", periods=20), "y": 1.0}) for i in range(60)]
    result = audit(tmp_path, pd.concat(parts).to_csv(index=False))
    assert len(of(result, "constant")) == 60
    assert "... and 40 more" in result.to_text()


def test_absent_file_is_a_finding(tmp_path: Path) -> None:
    """Even a file that is not there gives an audit."""
    assert [problem.code for problem in audit_file(tmp_path / "no.csv", DataConfig()).problems] == ["file_not_found"]


def parts(folder: Path) -> list[Path]:
    """Two years of two series in three files: hive partitions by region, with a file in each year."""
    frame = pd.DataFrame({"ds": pd.date_range("2020-01-01", periods=60), "y": wave()})
    written = []
    for region, part, rows in (("north", "a", slice(0, 40)), ("north", "b", slice(40, 60)), ("south", "a", slice(0, 60))):
        path = folder / f"unique_id={region}" / f"{part}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame[rows].to_parquet(path, index=False)
        written.append(path)
    return written


def test_a_folder_is_audited_as_one_table(tmp_path: Path) -> None:
    """All files of all partitions count; what is found and summed up is what one file of the same rows has."""
    paths = parts(tmp_path / "sales")
    result = audit_file(tmp_path / "sales", DataConfig())
    frames = [pd.read_parquet(path, partitioning=None).assign(unique_id=path.parent.name[10:]) for path in paths]
    pd.concat(frames).to_parquet(tmp_path / "one.parquet", index=False)
    one = audit_file(tmp_path / "one.parquet", DataConfig())
    assert result.is_usable
    assert result.problems == one.problems == ()
    assert result.summary.pop("files") == 3
    assert {"rows", "series", "freq", "season_length", "steps"} <= result.summary.keys()
    assert (result.summary["rows"], result.summary["series"]) == (120, 2)
    assert {key: value for key, value in result.summary.items() if key != "columns"} == {
        key: value for key, value in one.summary.items() if key != "columns"
    }


def test_what_is_wrong_between_the_files_of_a_folder_is_found(tmp_path: Path) -> None:
    """A time that is in two files, by series and row of the whole table; a file of other columns; something that is no parquet;
    a column per series; nothing at all: each by its code, as training would refuse it.
    """
    first, second, south = parts(tmp_path / "sales")
    pd.concat([pd.read_parquet(first, partitioning=None).tail(1), pd.read_parquet(second, partitioning=None)]).to_parquet(
        second, index=False
    )
    (problem,) = of(audit_file(tmp_path / "sales", DataConfig()), "duplicate_timestamps")
    assert (problem.series, problem.row, problem.count) == ("north", 41, 1)
    pd.DataFrame({"ds": ["x"], "z": [1]}).to_parquet(south, index=False)
    result = audit_file(tmp_path / "sales", DataConfig())
    assert [problem.code for problem in result.problems] == ["files_differ"] * 2
    assert "unique_id=south/a.parquet" in result.problems[0].message
    (tmp_path / "sales" / "notes.txt").touch()
    assert [problem.code for problem in audit_file(tmp_path / "sales", DataConfig()).problems] == ["folder_mixed"]
    (tmp_path / "none").mkdir()
    assert [problem.code for problem in audit_file(tmp_path / "none", DataConfig()).problems] == ["data_empty"]
    wide = tmp_path / "wide" / "a.parquet"
    wide.parent.mkdir()
    pd.DataFrame({"ds": pd.date_range("2020", periods=60), "a": wave(), "b": wave(), "c": wave()}).to_parquet(wide, index=False)
    assert of(audit_file(wide.parent, DataConfig()), "layout_wide")[0].severity == "error"
