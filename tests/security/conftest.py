"""Data and stores are those of the fault tests."""

from __future__ import annotations

from tests.faults.conftest import empty_store, store, waves

__all__ = ["empty_store", "store", "waves"]
