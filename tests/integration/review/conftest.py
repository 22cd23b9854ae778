"""The example run, in memory and as a directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.review.example_run import build_review, write_run
from training.report.review import RunReview


@pytest.fixture
def review(tmp_path: Path) -> RunReview:
    """The run, read from no file."""
    return build_review(tmp_path / "absent")


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """The run as `gradcast train` leaves it."""
    return write_run(tmp_path / "bike")
