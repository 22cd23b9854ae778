"""Whatever reads bytes, under hostile ones: a clear answer, soon, whatever comes."""

from __future__ import annotations

import pytest

from tests.fuzz.campaign import build_target, close_target
from tests.fuzz.fuzzer import Fuzzer

NUM_INPUTS = {"reader": 60, "config": 150, "bundle": 150, "routes": 300, "packed": 150, "checkpoint": 100}


@pytest.mark.parametrize("name", list(NUM_INPUTS))
def test_no_input_crashes_or_hangs(name, tmp_path):
    """The committed corpus and some hundred fresh inputs: every one is answered or refused by name, none in over 5 s."""
    target, start = build_target(name, tmp_path)
    fuzzer = Fuzzer(target, start, seed=1)
    try:
        fuzzer.feed(len(start) + NUM_INPUTS[name])
    finally:
        close_target(target)
    assert [message for message, _ in fuzzer.count.crashes] == []
    assert [seconds for seconds, _ in fuzzer.count.hangs] == []
    assert len(fuzzer.count.answers) > 1
    assert fuzzer.count.num_lines > 10
