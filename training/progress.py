"""What a person sees while the fit runs: a live bar on a terminal, one line per check without one."""

from __future__ import annotations

import json
import math
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TextIO, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

REFRESH_SECONDS = 0.1
LINE_SECONDS = 10.0


class FitProgress(ABC):
    """Told about every step; decides itself how much of it to show."""

    @abstractmethod
    def start(self, max_steps: int, step: int) -> None:
        """The fit begins at `step` of `max_steps`."""

    @abstractmethod
    def update(self, step: int, values: dict[str, float]) -> None:
        """A logged step, with `loss`, `grad_norm` and `windows_per_second`."""

    @abstractmethod
    def check(self, step: int, values: dict[str, float]) -> None:
        """A validation check, with `val_loss` besides."""

    @abstractmethod
    def stop(self) -> None:
        """The fit is over."""


@final
class _SilentProgress(FitProgress):
    def start(self, max_steps: int, step: int) -> None:
        """Begin the display."""

    def update(self, step: int, values: dict[str, float]) -> None:
        """Refresh the display."""

    def check(self, step: int, values: dict[str, float]) -> None:
        """Show a validation check."""

    def stop(self) -> None:
        """End the display."""


SILENT_PROGRESS: FitProgress = _SilentProgress()


@final
class LineProgress(FitProgress):
    """One line per validation check, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.max_steps = 0

    def start(self, max_steps: int, step: int) -> None:
        """Begin the display."""
        self.max_steps = max_steps

    def update(self, step: int, values: dict[str, float]) -> None:
        """Refresh the display."""

    def check(self, step: int, values: dict[str, float]) -> None:
        """Show a validation check."""
        print(f"step {step}/{self.max_steps}  {_sentence(values)}", file=self.stream, flush=True)

    def stop(self) -> None:
        """End the display."""


class _Numbers(ProgressColumn):
    """The current loss, norm and speed."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["numbers"]), style="cyan")


@final
class BarProgress(FitProgress):
    """A live bar with loss, gradient norm and speed."""

    def __init__(self, stream: TextIO) -> None:
        columns = (TextColumn("fit"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeRemainingColumn(), _Numbers())
        self.progress = Progress(*columns, console=Console(file=stream), refresh_per_second=8)
        self.values: dict[str, float] = {}
        self.last = 0.0

    def start(self, max_steps: int, step: int) -> None:
        """Begin the display."""
        self.task = self.progress.add_task("fit", total=max_steps, completed=step, numbers="")
        self.progress.start()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Refresh the display."""
        self.values |= values
        if time.monotonic() - self.last > REFRESH_SECONDS:
            self.last = time.monotonic()
            self.progress.update(self.task, completed=step, numbers=_sentence(self.values))

    def check(self, step: int, values: dict[str, float]) -> None:
        """Show a validation check."""
        self.values |= values
        self.progress.update(self.task, completed=step, numbers=_sentence(self.values))

    def stop(self) -> None:
        """End the display."""
        self.progress.stop()


@final
class RecordedProgress(FitProgress):
    """Appends every number to a file of JSON lines, for whoever watches from outside, and passes it on.

    A line holds `step` and numbers; one with `start` instead says that a fit begins there: later steps of the lines above
    it were lost in a crash and come again.

    Args:
        path: The file; its directory must exist.
        progress: What the user sees.
    """

    def __init__(self, path: Path, progress: FitProgress) -> None:
        self.path, self.progress = path, progress

    def start(self, max_steps: int, step: int) -> None:
        """Note where the fit begins."""
        self._append({"start": step, "max_steps": max_steps})
        self.progress.start(max_steps, step)

    def update(self, step: int, values: dict[str, float]) -> None:
        """Note a logged step."""
        self._append({"step": step} | values)
        self.progress.update(step, values)

    def check(self, step: int, values: dict[str, float]) -> None:
        """Note a validation check."""
        self._append({"step": step} | values)
        self.progress.check(step, values)

    def stop(self) -> None:
        """End the display."""
        self.progress.stop()

    def _append(self, values: dict[str, Any]) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(finite) + "\n")


def _sentence(values: dict[str, float]) -> str:
    names = (
        ("loss", "loss", ".4f"),
        ("val_loss", "val", ".4f"),
        ("grad_norm", "grad norm", ".3g"),
        ("windows_per_second", "windows/s", ",.0f"),
        ("reach", "reach", ".0f"),
    )
    return "  ".join(f"{label} {values[key]:{form}}" for key, label, form in names if key in values)


def build_progress(quiet: bool, stream: TextIO = sys.stderr) -> FitProgress:
    """A bar on a terminal, lines without one, nothing when quiet."""
    if quiet:
        return SILENT_PROGRESS
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


class CountProgress:
    """How much of a long job is done: a bar on a terminal, a line now and then without one, nothing when quiet.

    Args:
        quiet: Say nothing.
        stream: Where to.
    """

    def __init__(self, quiet: bool, stream: TextIO = sys.stderr) -> None:
        self.quiet, self.stream = quiet, stream
        self._bar: Progress | None = None

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a job of `total` units, `done` of which are done already."""
        self.what, self.total, self.unit = what, total, unit
        self.done = done
        self._counts: dict[str, int] = {}
        self._began = self._last = time.monotonic()
        if not self.quiet and self.stream.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), TimeRemainingColumn(), _Numbers())
            self._bar = Progress(*columns, console=Console(file=self.stream), refresh_per_second=8)
            self._task = self._bar.add_task(what, total=total, completed=done, numbers="")
            self._bar.start()

    def advance(self, count: int, **counts: int) -> None:
        """More units are done, and more of whatever else is counted: its rate is shown."""
        self.done += count
        for name, value in counts.items():
            self._counts[name] = self._counts.get(name, 0) + value
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, numbers=self._sentence())
        elif not self.quiet and (time.monotonic() - self._last > LINE_SECONDS or self.done == self.total):
            self._last = time.monotonic()
            print(f"{self.what}  {self._sentence()}", file=self.stream, flush=True)

    def stop(self) -> None:
        """The job is over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _sentence(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-6)
        rates = [f"{value:,} {name} ({value / seconds:,.0f}/s)" for name, value in self._counts.items()]
        return "  ".join((f"{self.done:,}/{self.total:,} {self.unit}", *rates))
