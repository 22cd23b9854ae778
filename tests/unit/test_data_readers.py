"""Files of every kind become one frame, or one clear refusal."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.config import DataConfig
from training.data import layout
from training.data.panel import build_panel, load_panel
from training.data.readers import read_frame
from training.data.timestamps import parse_timestamps
from training.errors import DataError


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path, **config: Any) -> pd.DataFrame:
    return read_frame(path, DataConfig(**config))


LONG = "unique_id,ds,y,price\na,2020-01-01,1.5,3\na,2020-01-02,,4\nb,2020-01-01,7,5\n"


@pytest.fixture
def long_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "unique_id": ["a", "a", "b"],
            "ds": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-01"]),
            "y": [1.5, np.nan, 7.0],
            "price": [3, 4, 5],
        }
    )


def test_every_container_gives_the_same_panel(tmp_path: Path, long_frame: pd.DataFrame) -> None:
    """CSV, compressed CSV, semicolons with decimal commas, UTF-16 and parquet hold the same data, fingerprint included."""
    semicolons = LONG.replace(",", ";").replace("1.5", "1,5")
    paths = [
        write(tmp_path, "a.csv", LONG),
        write(tmp_path, "b.csv.gz", gzip.compress(LONG.encode())),
        write(tmp_path, "c.csv", semicolons),
        write(tmp_path, "d.csv", b"\xef\xbb\xbf" + LONG.encode()),
        write(tmp_path, "e.csv", LONG.encode("utf-16")),
        write(tmp_path, "f.txt", LONG.replace(",", "\t").replace("\n", "\r\n")),
    ]
    long_frame.to_parquet(tmp_path / "g.parquet")
    paths.append(tmp_path / "g.parquet")
    panels = [load_panel(DataConfig(path=str(path), hist_exog=("price",), freq="D")) for path in paths]
    assert {panel.fingerprint for panel in panels} == {panels[0].fingerprint}
    assert panels[0].ids == ("a", "b")
    assert panels[0].values.tolist() == [1.5, 7.0]


def test_unusual_dialects_are_said(tmp_path: Path) -> None:
    """Byte order mark, delimiter and decimal comma are named in the notes."""
    path = write(tmp_path, "c.csv", b"\xef\xbb\xbfds;y\n2020-01-01;1,5\n2020-01-02;2,5\n")
    frame = read(path)
    assert frame["y"].tolist() == [1.5, 2.5]
    notes = " ".join(frame.attrs["gradcast"]["notes"])
    assert "byte order mark" in notes
    assert "semicolons" in notes
    assert "decimal comma" in notes


def test_latin1_is_read_and_said(tmp_path: Path) -> None:
    """Accents in an old encoding survive, in header and names."""
    path = write(tmp_path, "x.xls", "série,ds,y\nChâteau,2020-01-01,1\nChâteau,2020-01-02,2\n".encode("latin-1"))
    frame = read(path, id_col="série")
    assert frame["unique_id"].tolist() == ["Château", "Château"]
    assert "not UTF-8" in frame.attrs["gradcast"]["notes"][0]


def test_columns_are_renamed_at_the_border(tmp_path: Path) -> None:
    """Other names become unique_id, ds and y, and only these and the covariates are read."""
    path = write(tmp_path, "s.csv", "shop,day,sold,price,rest\nx,2020-01-01,1,2,3\nx,2020-01-02,2,2,3\n")
    frame = read(path, id_col="shop", time_col="day", target_col="sold", futr_exog=("price",))
    assert list(frame.columns) == ["unique_id", "ds", "y", "price"]


def test_file_without_series_column_is_one_series(tmp_path: Path) -> None:
    """The series is named after the target, or after the file if the target is plain y."""
    first = write(tmp_path, "sales.csv", "ds,y\n2020-01-01,1\n2020-01-02,2\n")
    second = write(tmp_path, "other.csv", "ds,load,temp\n2020-01-01,1,0\n2020-01-02,2,0\n")
    assert read(first)["unique_id"].unique().tolist() == ["sales"]
    assert read(second, target_col="load")["unique_id"].unique().tolist() == ["load"]


def test_date_and_clock_may_be_two_columns(tmp_path: Path) -> None:
    """`data.time_col: Date+Time` joins a day and its hour."""
    path = write(tmp_path, "d.csv", "Date;Time;T\n30/03/2004;18:00:00;1,5\n31/03/2004;19:00:00;2\n")
    frame = read(path, time_col="Date+Time", target_col="T")
    assert frame["ds"].astype(str).tolist() == ["2004-03-30 18:00:00", "2004-03-31 19:00:00"]


def test_wide_file_is_one_series_per_column(tmp_path: Path) -> None:
    """A time column and columns of numbers are read as wide, with the file's line remembered for every value."""
    path = write(tmp_path, "w.csv", "date,north,south\n2020-01-01,1,10\n2020-01-02,2,\n2020-01-03,3,30\n")
    frame = read(path)
    assert frame["unique_id"].tolist() == ["north"] * 3 + ["south"] * 3
    assert frame["y"].tolist()[:4] == [1, 2, 3, 10]
    assert "wide" in " ".join(frame.attrs["gradcast"]["notes"])
    frame.loc[4, "ds"] = frame.loc[3, "ds"]
    with pytest.raises(DataError, match=r"'south'.*line 2 and line 3"):
        build_panel(frame, DataConfig())


def test_a_column_of_times_is_found_among_thousands_and_not_all_are_read_as_times(tmp_path: Path, monkeypatch) -> None:
    """Reading times is dear: beyond some dozens of columns of text only those named so are tried."""
    tried: list[str] = []
    monkeypatch.setattr(layout, "parse_timestamps", lambda text, name: tried.append(name) or parse_timestamps(text, name))
    names = [f"c{number}" for number in range(2000)]
    rows = [[*names, "y", "date"], [*["a-1"] * 2000, "1", "2020-01-01"]]
    path = write(tmp_path, "w.csv", "".join(",".join(row) + "\n" for row in rows))
    frame = read(path, time_col="date")
    assert frame["y"].tolist() == [1]
    assert 1 < len(tried) < 80
    assert tried[-1] == "date"


def test_wide_file_with_named_time_column(tmp_path: Path) -> None:
    """The time column of a wide file may stand anywhere if it is named."""
    path = write(tmp_path, "w.csv", "north,when,south\n1,2020-01-01,10\n2,2020-01-02,20\n")
    frame = read(path, format="wide", time_col="when")
    assert frame["unique_id"].unique().tolist() == ["north", "south"]


def test_ids_stay_text(tmp_path: Path) -> None:
    """Names that look like numbers keep their zeros, and NA is a name."""
    path = write(tmp_path, "i.csv", "unique_id,ds,y\n0012,2020-01-01,1\nNA,2020-01-01,2\n15056BL,2020-01-01,3\n")
    assert read(path)["unique_id"].tolist() == ["0012", "NA", "15056BL"]


def test_none_is_a_category_and_na_is_missing(tmp_path: Path) -> None:
    """The text None is kept in a covariate; empty fields and NA are missing."""
    path = write(tmp_path, "n.csv", "ds,y,event\n2020-01-01,1,None\n2020-01-02,NA,\n2020-01-03,3,Fair\n")
    frame = read(path, hist_exog=("event",))
    assert frame["event"].fillna("?").tolist() == ["None", "?", "Fair"]
    assert np.isnan(frame["y"].to_numpy()[1])


TSF = """# a comment
@relation test
@attribute series_name string
@attribute state string
@attribute start_timestamp date
@frequency half_hourly
@missing true
@equallength false
@data
T1:VIC:2010-07-01 00-30-00:1.5,?,3
T2:NSW:2011-01-01 00-00-00:4,5
"""


def test_tsf_is_read_with_starts_missing_values_and_attributes(tmp_path: Path) -> None:
    """A Monash file gives its series with timestamps, ? as missing, and other attributes as static columns."""
    path = write(tmp_path, "t.tsf", TSF)
    frame = read(path, stat_exog=("state",))
    assert frame["unique_id"].tolist() == ["T1", "T1", "T1", "T2", "T2"]
    assert frame["ds"].astype(str).tolist()[:3] == ["2010-07-01 00:30:00", "2010-07-01 01:00:00", "2010-07-01 01:30:00"]
    assert np.isnan(frame["y"].to_numpy()[1])
    panel = build_panel(frame, DataConfig(stat_exog=("state",)))
    assert panel.freq == "30min"
    assert panel.columns.static_features == ("state=NSW", "state=VIC")
    assert panel.static.tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_tsf_without_starts_counts(tmp_path: Path) -> None:
    """Without start timestamps a series counts from 0."""
    path = write(tmp_path, "t.tsf", "@attribute series_name string\n@frequency yearly\n@data\nT1:1,2,3\n")
    assert read(path)["ds"].tolist() == [0, 1, 2]


def test_damaged_tsf_names_the_line(tmp_path: Path) -> None:
    """A line with too few attributes is named."""
    path = write(tmp_path, "t.tsf", TSF + "T3:only\n")
    with pytest.raises(DataError, match="line 12"):
        read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"ds,y\n", "without rows"),
        (b"\n\n", "blank"),
        (b"PK\x03\x04rest", "Excel"),
        (b"\xd0\xcf\x11\xe0rest", "Excel"),
        (b'{"a": 1}', "JSON"),
        (b"<html></html>", "HTML"),
        (b"\x00\x01\x02\x03" * 9, "binary"),
        (b"PAR1 but damaged", "damaged parquet"),
        (gzip.compress(b"ds,y\n2020-01-01,1\n" * 50, mtime=0)[:-20], "damaged gzip"),
        (b"1,2\n3,4\n", "without a header"),
        (
            b"unique_id,ds,y\na,2020-01-01,1\n" + b"a,2020-01-02,1,5\n" * 3,
            "more than 3 fields in line 3 (3 such lines)",
        ),
        (b"ds,y\n2020-01-01," + b"1" * 200_000 + b"\n", "field larger than"),
        (b"ds,y,y\n2020-01-01,1,2\n", "twice"),
        (b"date,north,north\n2020-01-01,1,2\n", "twice"),
        (b"date,date,ds,y\n1", "without a row that has a time"),
        (b"ds,y\n01/02/2020,1\n02/02/2020,2\n", "known order"),
    ],
)
def test_foreign_files_are_refused_with_the_reason(tmp_path: Path, content: bytes, said: str) -> None:
    """Whatever is no table is refused by name, never with a traceback."""
    path = write(tmp_path, "file.csv", content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert said in str(caught.value)


def test_absent_file_and_directory_are_refused(tmp_path: Path) -> None:
    """A path that is no file is a mistake of the user, and is said so."""
    with pytest.raises(DataError, match="absent"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="directory"):
        read(tmp_path)


def test_absent_columns_are_named_together_with_a_guess(tmp_path: Path) -> None:
    """All missing columns are one error, and the guess is a ready-made option."""
    path = write(
        tmp_path, "m.csv", "holiday,date_time,traffic_volume\nNone,2020-01-01 00:00,5\nNone,2020-01-01 01:00,6\n"
    )
    with pytest.raises(DataError) as caught:
        read(path, futr_exog=("rain",))
    assert {problem.where for problem in caught.value.problems} == {
        "data.time_col",
        "data.target_col",
        "data.futr_exog",
    }
    assert "--set data.time_col=date_time --set data.target_col=traffic_volume" in str(caught.value)


def test_misspelt_id_column_is_refused(tmp_path: Path) -> None:
    """Only the default series column may be absent: a name that was given must exist."""
    path = write(tmp_path, "m.csv", "shop,ds,y\na,2020-01-01,5\n")
    with pytest.raises(DataError, match=r"data.id_col"):
        read(path, id_col="shpo")


def test_duplicates_without_series_column_hint_at_one(tmp_path: Path) -> None:
    """Repeated times in a file read as one series point at the column that may name the series."""
    path = write(tmp_path, "m.csv", "car_park,ds,y\na,2020-01-01,5\nb,2020-01-01,5\n")
    with pytest.raises(DataError, match=r"'car_park'.*data.id_col"):
        load_panel(DataConfig(path=str(path)))


@pytest.mark.parametrize("index", ["rows", "ds"])
def test_parquet_with_the_index_of_a_frame_is_read_as_its_columns(
    tmp_path: Path, index: str, long_frame: pd.DataFrame
) -> None:
    """Row numbers left over from a concatenation are ignored; times in the index are the times of the rows."""
    long_frame.to_parquet(tmp_path / "plain.parquet")
    rows = pd.Index(range(7, 7 + 2 * len(long_frame), 2))
    indexed = long_frame.set_index(rows if index == "rows" else "ds")
    indexed.to_parquet(tmp_path / "indexed.parquet")
    read, wanted = (load_panel(DataConfig(path=str(tmp_path / name))) for name in ("indexed.parquet", "plain.parquet"))
    assert read.fingerprint == wanted.fingerprint


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_times_of_every_unit_agree(tmp_path: Path, unit: str, long_frame: pd.DataFrame) -> None:
    """Times are brought to microseconds whatever the file holds, in several row groups and with integer names."""
    long_frame["ds"] = long_frame["ds"].dt.as_unit(unit)
    long_frame["unique_id"] = [1, 1, 22]
    long_frame.to_parquet(tmp_path / "p.parquet", row_group_size=1)
    frame = read(tmp_path / "p.parquet")
    assert frame["unique_id"].tolist() == ["1", "1", "22"]
    assert frame["ds"].dtype == "datetime64[us]"
    assert frame["ds"].tolist() == long_frame["ds"].tolist()


def test_parquet_dates_zones_and_texts(tmp_path: Path) -> None:
    """Dates, zoned times and text times in parquet mean the same as in CSV."""
    times = pd.date_range("2020-03-28 22:00", periods=6, freq="h", tz="Europe/Berlin")
    frames = {
        "zoned": pd.DataFrame({"ds": times, "y": range(6)}),
        "text": pd.DataFrame({"ds": [time.isoformat() for time in times], "y": range(6)}),
    }
    for name, frame in frames.items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
    zoned, text = (load_panel(DataConfig(path=str(tmp_path / f"{name}.parquet"))) for name in frames)
    assert zoned.timezone == "Europe/Berlin"
    np.testing.assert_array_equal(zoned.starts, text.starts)
    assert zoned.freq == text.freq == "h"
    pd.DataFrame({"ds": [day.date() for day in pd.date_range("2020-01-01", periods=3)], "y": [1, 2, None]}).to_parquet(
        tmp_path / "date.parquet"
    )
    dates = read(tmp_path / "date.parquet")
    assert dates["ds"].astype(str).tolist() == ["2020-01-01", "2020-01-02", "2020-01-03"]
    assert np.isnan(dates["y"].to_numpy()[2])


def test_parquet_of_lists_is_refused(tmp_path: Path) -> None:
    """A column of lists is no column of numbers."""
    pd.DataFrame({"ds": [1, 2], "y": [[1.0], [2.0]]}).to_parquet(tmp_path / "l.parquet")
    with pytest.raises(DataError, match=r"one value per row|numbers"):
        load_panel(DataConfig(path=str(tmp_path / "l.parquet")))


def test_unreadable_times_are_named_by_line(tmp_path: Path) -> None:
    """A row whose time is no time is named by its line of the file."""
    path = write(tmp_path, "t.csv", "ds,y\n2020-01-01,1\nyesterday,2\n2020-01-03,3\n")
    with pytest.raises(DataError, match="line 3"):
        load_panel(DataConfig(path=str(path)))


def test_text_target_is_named_by_series_and_line(tmp_path: Path) -> None:
    """Text where the target should be is an error with series, line and count."""
    path = write(tmp_path, "t.csv", "unique_id,ds,y\na,2020-01-01,1\na,2020-01-02,ND\na,2020-01-03,ND\n")
    with pytest.raises(DataError, match=r"series 'a', line 3.*2 row\(s\)"):
        load_panel(DataConfig(path=str(path)))
