"""Files that nobody meant as data."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.config import DataConfig
from training.data.audit import audit_file
from training.data.panel import load_panel
from training.errors import DataError

fields = st.one_of(
    st.sampled_from(
        [
            "",
            "1",
            "-3.5",
            "NA",
            "None",
            "inf",
            "-200",
            "1e400",
            "2020-01-01",
            "2020-01-02 03:00",
            "31/12/2020",
            "a",
            "é",
            '"x"',
            " ",
            "1,5",
            "2020-13-45",
        ]
    ),
    st.text(max_size=4),
)
headers = st.sampled_from(["unique_id", "ds", "y", "date", "value", "x", "", "ds", "y"])


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    delimiter = draw(st.sampled_from([",", ";", "\t"]))
    header = draw(st.lists(headers, min_size=1, max_size=5))
    rows = draw(st.lists(st.lists(fields, min_size=1, max_size=6), max_size=12))
    text = "\n".join(delimiter.join(row) for row in [header, *rows])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-16"])), "ignore")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(tables(), st.binary(max_size=200)))
def test_any_file_ends_in_findings_and_never_in_another_exception(content: bytes) -> None:
    """The audit never raises, the reader raises nothing but DataError, and a file that the audit calls usable loads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.csv"
        path.write_bytes(content)
        result = audit_file(path, DataConfig())
        result.to_text()
        is_refused = False
        try:
            load_panel(DataConfig(path=str(path)))
        except DataError:
            is_refused = True
        assert not (is_refused and result.is_usable)
