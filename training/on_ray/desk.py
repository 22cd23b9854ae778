"""The desk between a command and the workers it started: what they say goes one way, the wish to stop the other.

It is an actor on the command's machine. Workers that are started anew find there what to do, and whether it is over. Its process
imports nothing but this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Assignment:
    """What the workers are to do.

    Attributes:
        config: The configuration as it was written, or that of the run to continue.
        directory: Of the run, which every machine that may lead must see.
        mark: What the command wrote into it.
        folder: Working directory of the command; paths in the configuration are relative to it.
        environment: Variables that MLflow reads.
        new_tracker: Makes the tracker of a run.
        version: Of gradcast.
    """

    config: Mapping[str, Any]
    directory: str
    mark: str
    folder: str
    environment: Mapping[str, str]
    new_tracker: Callable[[Any], Any]
    version: str


class Message(NamedTuple):
    """One thing said.

    Attributes:
        kind: What is said; the first end that is said counts.
        values: The rest of it.
    """

    kind: str
    values: tuple[Any, ...]


ENDS = ("done", "stopped", "failed")


class Desk:
    """The actor.

    Args:
        assignment: What the workers are to do.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._said: list[Message] = []
        self._is_over = False
        self._news, self._stop = asyncio.Event(), asyncio.Event()

    async def assignment(self) -> Assignment | None:
        """What to do; None once it is over."""
        return None if self._is_over else self._assignment

    async def tell(self, kind: str, *values: Any) -> None:
        """A worker says something."""
        if self._is_over:
            return
        self._is_over = kind in ENDS
        self._said.append(Message(kind, values))
        self._news.set()

    async def hear(self, patience_seconds: float) -> list[Message]:
        """What was said since the last time; waits for something."""
        try:
            await asyncio.wait_for(self._news.wait(), patience_seconds)
        except TimeoutError:
            return []
        said, self._said = self._said, []
        self._news.clear()
        return said

    async def is_over(self) -> bool:
        """Whether an end was said."""
        return self._is_over

    async def stop(self) -> None:
        """The user wants the fit to stop."""
        self._stop.set()

    async def until_stopped(self) -> None:
        """Returns when the user wants the fit to stop."""
        await self._stop.wait()
