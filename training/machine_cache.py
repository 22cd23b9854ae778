"""What was measured on this machine once and need not be measured again: small JSON files under the user's cache.

An entry is data and nothing else. One that is damaged, of another question or out of its bounds is measured anew; a
folder that cannot be written costs only that the measurement is repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MAX_ENTRY_BYTES = 1 << 16


def cache_directory() -> Path:
    """Where measurements are kept: under XDG_CACHE_HOME, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradcast" / "measured"


def remembered(
    name: str,
    question: Mapping[str, Any],
    measure: Callable[[], int],
    low: int,
    high: int,
    is_worth_keeping: Callable[[], bool] = lambda: True,
) -> tuple[int, bool]:
    """A whole number that was measured before, or is measured now and kept.

    Args:
        name: Kind of measurement, the beginning of the file's name.
        question: Everything the answer depends on: machine, versions, shape. JSON values.
        measure: Finds the answer.
        low: Smallest answer to believe.
        high: Largest.
        is_worth_keeping: Asked after the measurement; False leaves it to be repeated the next time.

    Returns:
        The answer, and whether it was known.
    """
    key = json.dumps(question, sort_keys=True)
    path = cache_directory() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    known = _read(path, question)
    if known is not None and low <= known <= high:
        return known, True
    answer = measure()
    if is_worth_keeping():
        _write(path, {"question": question, "answer": answer})
    return answer, False


def _read(path: Path, question: Mapping[str, Any]) -> int | None:
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(MAX_ENTRY_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("question") != question:
        return None
    answer = document.get("answer")
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else None


def _write(path: Path, document: Mapping[str, Any]) -> None:
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(json.dumps(document, indent=1), encoding="utf-8")
        staging.replace(path)
