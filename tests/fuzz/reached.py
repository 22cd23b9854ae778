"""Which lines of the product an input reaches: what guides the fuzzer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tuple(str(ROOT / name) + "/" for name in ("models", "training", "app"))


class ReachedLines:
    """Lines of the three packages that any input has reached so far.

    A function whose every line was reached is not traced any more, so that watching gets cheaper as less is new. One thread is
    watched: the one that feeds.
    """

    def __init__(self) -> None:
        self._unseen: dict[CodeType, set[int] | None] = {}
        self.num_lines = 0

    def observe(self, call: Callable[[bytes], str], data: bytes) -> tuple[str, bool]:
        """Call with an input.

        Returns:
            What the call returned, and whether it reached a line that none before it did.
        """
        before, other = self.num_lines, sys.gettrace()
        sys.settrace(self._on_call)
        try:
            answer = call(data)
        finally:
            sys.settrace(other)
        return answer, self.num_lines > before

    def _on_call(self, frame: FrameType, event: str, _argument: Any) -> Any:
        code = frame.f_code
        if code not in self._unseen:
            ours = code.co_filename.startswith(PACKAGES)
            self._unseen[code] = {line for _, _, line in code.co_lines() if line is not None} if ours else None
        return self._on_line if self._unseen[code] else None

    def _on_line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        unseen = self._unseen[frame.f_code]
        if unseen and frame.f_lineno in unseen:
            unseen.discard(frame.f_lineno)
            self.num_lines += 1
        return self._on_line if unseen else None
