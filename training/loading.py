"""Libraries loaded in less time, and put away in none.

torch makes a million objects when it is imported. Python looks through them for garbage again and again while there are more
to come, and twice more when the process ends: half a second each, and nothing is ever found.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """While libraries are imported: no search for garbage, and none in them later on.

    For a process that ends when its work does: what is unreachable by the end of the block is never freed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
