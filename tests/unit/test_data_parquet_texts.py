"""Text columns of parquet: one list of distinct texts, however many dictionaries the file has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data import parquet
from training.data.parquet import read_parquet_columns
from training.data.series_order import hash_names


@pytest.mark.parametrize("kind", ["text", "text of other row groups only", "integer"])
def test_codes_are_those_of_pandas_whatever_the_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Every row group has a dictionary of its own, with texts known and new; missing ones have no text."""
    monkeypatch.setattr(parquet, "BATCH_ROWS", 7)
    random = np.random.default_rng(0)
    numbers = (
        np.sort(random.integers(0, 40, 300)) if kind == "text of other row groups only" else random.integers(0, 40, 300)
    )
    names: list[Any] = [int(number) if kind == "integer" else f"s{number}" for number in numbers]
    names[5] = names[299] = names[120] = None
    pq.write_table(pa.table({"name": names}), tmp_path / "in.parquet", row_group_size=23)
    column = read_parquet_columns(tmp_path / "in.parquet", ["name"], ["name"])["name"]
    codes, texts = pd.factorize(np.array([None if name is None else str(name) for name in names], dtype=object))
    assert column.categories.dtype == "str"
    assert column.categories.tolist() == list(texts)
    assert column.codes.tolist() == codes.tolist()


def test_a_missing_name_has_a_hash_that_no_name_has() -> None:
    """Least of all the series that is called None."""
    hashes = hash_names(pa.array(["a", None, "None", "a"]))
    assert hashes[1] == np.iinfo(np.uint64).max
    assert hashes[0] == hashes[3] != hashes[2] != hashes[1]
    assert hashes[[0, 2]].tolist() == pd.util.hash_array(np.array(["a", "None"], dtype=object)).tolist()
