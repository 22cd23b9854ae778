"""Imports without searches for garbage."""

from __future__ import annotations

import gc
import subprocess
import sys

# In a process of its own: what is frozen stays so.
SCRIPT = """
import gc
from training.loading import loading
searches = []
gc.callbacks.append(lambda phase, _info: searches.append(phase))
with loading():
    kept = [[number] for number in range(100_000)]
assert not searches, searches
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000
gc.collect()
assert searches
gc.disable()
try:
    with loading():
        raise KeyError
except KeyError:
    assert not gc.isenabled()
print("as said")
"""


def test_nothing_is_searched_while_loading_and_what_was_loaded_never() -> None:
    """Afterwards the collector is as it was, whatever happened."""
    before = gc.get_freeze_count()
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert said == "as said\n"
    assert gc.get_freeze_count() == before
