"""Real bombs: files of some kilobytes that unpack to a thousand times as much are refused by name, before memory is taken."""

from __future__ import annotations

import gzip
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import ProblemError
from app.main import create_app
from app.protocols.tables import PARQUET, read_table
from app.settings import ServiceSettings
from models.bundle import load_bundle
from models.columns import Columns
from tests.integration.service.service_bundles import TestClient, build_context, wait_ready, write_bundle
from training.config import DataConfig
from training.data.audit import audit_file
from training.data.context import read_context
from training.data.panel import load_panel
from training.data.unpacked import lower_unpacked_limit
from training.errors import DataError

# Each bomb unpacks to more than this, and is read where this much is allowed.
ALLOWED, GROWTH = 16 * 2**20, 100 * 2**20


@pytest.fixture(autouse=True)
def _little_memory():
    """As in a process that was given little memory; whatever is read, it takes no more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lower_unpacked_limit(ALLOWED)
    yield
    lower_unpacked_limit(None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH // 1024


def long_texts(path: Path) -> Path:
    """A dictionary page of one text of an eighth of a gigabyte."""
    table = pa.table({"unique_id": pa.array(["a" * 2**27]), "ds": pa.array([1]), "y": pa.array([1.0])})
    pq.write_table(table, path, compression="zstd")
    return path


def many_rows(path: Path) -> Path:
    """Ten million rows of runs."""
    table = pa.table({"ds": np.zeros(10**7, np.int64), "y": np.zeros(10**7, np.float32)})
    pq.write_table(table, path, compression="zstd", row_group_size=10**7)
    return path


def shared_prefixes(path: Path) -> Path:
    """Texts that are written as what they add to the one before."""
    texts = ["a" * length for length in range(8_000)]
    table = pa.table({"unique_id": texts, "ds": np.arange(8_000), "y": np.zeros(8_000, np.float32)})
    encodings = {"unique_id": "DELTA_BYTE_ARRAY", "ds": "PLAIN", "y": "PLAIN"}
    pq.write_table(table, path, use_dictionary=False, column_encoding=encodings, compression="zstd")
    return path


@pytest.fixture(scope="module")
def bombs(tmp_path_factory) -> dict[str, Path]:
    """Made once, before memory is counted."""
    folder = tmp_path_factory.mktemp("bombs")
    makers = {"texts": long_texts, "rows": many_rows, "prefixes": shared_prefixes}
    made = {name: make(folder / f"{name}.parquet") for name, make in makers.items()}
    made["gzip"] = folder / "long.csv.gz"
    with gzip.open(made["gzip"], "wb", compresslevel=9) as stream:
        stream.write(b"ds,y\n")
        for _ in range(64):
            stream.write(b"2026-01-01,0\n" * 80_660)
    return made


def test_the_bombs_are_bombs(bombs):
    """Small on disk: a small part of what is allowed, of which they unpack to many times."""
    assert all(path.stat().st_size < ALLOWED / 16 for path in bombs.values())


@pytest.mark.parametrize("name", ["texts", "rows", "gzip"])
def test_a_data_file_that_is_a_bomb_is_refused(name, bombs):
    """The reader and the audit name the limit."""
    with pytest.raises(DataError) as caught:
        load_panel(DataConfig(path=str(bombs[name])))
    assert [problem.code for problem in caught.value.problems] == ["file_too_large"]
    assert str(ALLOWED) in str(caught.value)
    audit = audit_file(bombs[name], DataConfig())
    assert [problem.code for problem in audit.problems] == ["file_too_large"]


def test_a_lying_footer_helps_nobody(bombs, tmp_path):
    """The size that the footer states is not believed: with it set to a few bytes, the pages still say what they are."""
    content = bytearray(bombs["texts"].read_bytes())
    stated = _varint(2 * (2**27 + 4 + _header_bytes(bombs["texts"])))
    assert stated in content
    at = content.rindex(stated)
    content[at : at + len(stated)] = _varint(2 * 100, len(stated))
    path = tmp_path / "lie.parquet"
    path.write_bytes(content)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 100
    with pytest.raises(DataError, match="unpacked take more than"):
        load_panel(DataConfig(path=str(path)))


def _header_bytes(path: Path) -> int:
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    return column.total_uncompressed_size - 2**27 - 4


def _varint(value: int, length: int = 0) -> bytes:
    pieces = []
    while value >> 7 or len(pieces) + 1 < length:
        pieces.append(value & 127 | 128)
        value >>= 7
    return bytes([*pieces, value])


@pytest.mark.parametrize("name", ["texts", "rows", "prefixes"])
def test_a_context_that_is_a_bomb_is_refused(name, bombs, monkeypatch):
    """What the service reads of a bundle is bounded too, and written in no way that could stand for more than its pages."""
    monkeypatch.setattr("training.data.context.MAX_CONTEXT_BYTES", ALLOWED)
    with pytest.raises(DataError, match=r"in encoding|unpacked take more than"):
        read_context(bombs[name])


@pytest.mark.parametrize("name", ["rows", "prefixes", "repeated"])
def test_a_table_sent_as_parquet_that_is_a_bomb_is_refused(name, bombs, tmp_path):
    """Rows, prefixes, and a long text that stands once in the file and in every row of the table."""
    path = bombs.get(name) or tmp_path / "repeated.parquet"
    if name == "repeated":
        texts = pa.DictionaryArray.from_arrays(np.zeros(10_000, np.int32), ["a" * 2**20])
        pq.write_table(pa.table({"unique_id": texts, "y": np.zeros(10_000)}), path, compression="zstd", store_schema=False)
    with pytest.raises(ProblemError) as caught:
        read_table(path.read_bytes(), PARQUET, ALLOWED)
    assert caught.value.code in ("body_too_large", "table_invalid")


def test_a_bundle_with_a_bomb_leaves_the_service_with_the_model_before(bombs, tmp_path, monkeypatch):
    """A version whose hashes are right and whose context is a bomb is named in /readyz; version 1 goes on."""
    monkeypatch.setattr("training.data.context.MAX_CONTEXT_BYTES", ALLOWED)
    columns = Columns()
    write_bundle(tmp_path / "plain" / "1", columns, context=build_context(columns))
    settings = ServiceSettings(bundle=tmp_path, poll_seconds=0.1, jobs_directory=tmp_path / "jobs", job_workers=0, open="always",
                               keys_directory=tmp_path / "keys")  # fmt: skip
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        wait_ready(client)
        write_bundle(tmp_path / "staging", columns, context=bombs["rows"].read_bytes())
        load_bundle(tmp_path / "staging")
        (tmp_path / "staging").rename(tmp_path / "plain" / "2")
        body = _wait_for(client, "unpacked take more than")
        assert "plain" in body
        assert client.get("/models/plain").json()["version"] == 1


def _wait_for(client, text: str) -> str:
    for _ in range(200):
        body = client.get("/readyz").text
        if text in body:
            return body
        time.sleep(0.05)
    raise AssertionError(body)
