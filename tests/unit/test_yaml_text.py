"""YAML is bounded before anything is built from it."""

from __future__ import annotations

import time

import pytest
import yaml

from training.config import load_config
from training.errors import ConfigurationError
from training.yaml_text import MAX_YAML_BYTES, UNREADABLE_YAML, read_yaml

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 20_000, "levels deep"),
        ("- " * 20_000, "levels deep"),
        ('{"a":' * 5_000, "levels deep"),
        (LAUGHS, "values"),
        ("&a [*a]", "contains itself"),
        ("a: " + "x" * MAX_YAML_BYTES, "bytes"),
    ],
    ids=["brackets", "dashes", "braces", "laughs", "itself", "long"],
)
def test_bombs_are_refused_at_once(text, reason):
    """Depth, repetition and size are refused by name, in a fraction of a second."""
    began = time.process_time()
    with pytest.raises(UNREADABLE_YAML, match=reason):
        read_yaml(text)
    assert time.process_time() - began < 1.0


def test_what_people_write_reads_as_before():
    """Mappings, anchors and merges come out as PyYAML's safe loader gives them."""
    text = "base: &base {a: 1, b: [x, 2.5, null]}\nother:\n  <<: *base\n  c:\n    - - 1\n      - 2\n"
    assert read_yaml(text) == yaml.safe_load(text)
    assert read_yaml("") is None


def test_a_configuration_says_why_it_is_refused(tmp_path):
    """The file and the limit stand in the message."""
    path = tmp_path / "config.yaml"
    path.write_text(LAUGHS)
    with pytest.raises(ConfigurationError, match=r"config\.yaml: must be a YAML file: more than 100000 values"):
        load_config(path)
