"""A suggestion can be typed as it stands, whatever a file calls its columns."""

from __future__ import annotations

import shlex

import pytest

from training.config import load_config
from training.data.layout import Layout

NAMES = [
    "traffic_volume", "Mois (M)", "it's", " s ", "\x10s", "[x", "123", "2026-01-01", "a: b", "null", "*a", "x\ny", "\ufeffz",
    "\U0001f4a5",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_suggested_column_is_the_column(name):
    """Through a shell's words and YAML the name comes back as it is in the file: no number, no date, no syntax error."""
    words = shlex.split(Layout("long", None, (name,), "y").settings())
    assert load_config(None, [word for word in words if word != "--set"]).data.time_col == name
