"""Readers, configuration, bundle loader and every route under hostile bytes: a clear answer, soon, whatever comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.fuzzer import fuzz
from tests.fuzz.mutations import read_corpus, seeds
from tests.fuzz.targets import BundleTarget, ConfigTarget, ReaderTarget, RoutesTarget

CORPUS = Path(__file__).parent / "corpus"
NUM_INPUTS = {"reader": 60, "config": 150, "bundle": 150, "routes": 300}


@pytest.mark.parametrize("make", [ReaderTarget, ConfigTarget, BundleTarget, RoutesTarget], ids=list(NUM_INPUTS))
def test_no_input_crashes_or_hangs(make, request, tmp_path):
    """The committed corpus and some hundred fresh inputs: every one is answered or refused by name, none in over 5 s."""
    name = request.node.callspec.id
    target = make(tmp_path)
    start = [*seeds(name), *(target.seeds() if isinstance(target, BundleTarget) else []), *read_corpus(CORPUS / name)]
    try:
        count = fuzz(target, start, len(start) + NUM_INPUTS[name], seed=1)
    finally:
        if isinstance(target, RoutesTarget):
            target.close()
    assert [message for message, _ in count.crashes] == []
    assert [seconds for seconds, _ in count.hangs] == []
    assert len(count.answers) > 1
