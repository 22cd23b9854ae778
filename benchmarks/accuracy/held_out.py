"""A data set and the rolling origins that a model trained on the rows before them is scored on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOutPanel:
    """One data set and its held-out origins.

    Attributes:
        file: Below the data folder.
        horizon: Steps of a forecast, and between two origins.
        windows: Origins per series.
        settings: What the file needs to be read.
    """

    file: str
    horizon: int
    windows: int
    settings: tuple[str, ...] = ()

    @property
    def test_size(self) -> int:
        """Rows of every series that are not trained on."""
        return self.horizon * self.windows
