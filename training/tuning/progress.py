"""What a person sees of a trial while it runs: a bar that makes way for its result, nothing without a terminal."""

from __future__ import annotations

import sys
from typing import TextIO, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from training.progress import SILENT_PROGRESS, FitProgress


@final
class TrialProgress(FitProgress):
    """One bar per trial, gone when the trial is."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._bar: Progress | None = None

    def start(self, max_steps: int, step: int) -> None:
        """Begin the display."""
        columns = (TextColumn("trial"), BarColumn(bar_width=28), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
        self._bar = Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
        self._task = self._bar.add_task("trial", total=max_steps, completed=step, numbers="")
        self._bar.start()

    def update(self, step: int, values: dict[str, float]) -> None:
        """Refresh the display."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
            if "loss" in values:
                self._bar.update(self._task, numbers=f"loss {values['loss']:.4f}")

    def check(self, step: int, values: dict[str, float]) -> None:
        """Show a validation check."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=f"val {values['val_loss']:.4f}")

    def stop(self) -> None:
        """End the display."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def build_trial_progress(quiet: bool, stream: TextIO = sys.stderr) -> FitProgress:
    """A bar on a terminal; without one, and when quiet, the trials' results are enough."""
    return TrialProgress(stream) if stream.isatty() and not quiet else SILENT_PROGRESS
