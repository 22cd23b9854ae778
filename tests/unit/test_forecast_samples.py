"""Sampled futures of a table: one column each, repeatable, refused where a model draws none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models.bundle import Bundle, BundleManifest
from models.config import GRUConfig
from models.registry import build_forecaster
from training.forecasting import SamplesError, forecast_frame, sample_frame


def bundle(**settings: object) -> Bundle:
    """A network that nobody trained."""
    torch.manual_seed(0)
    config = GRUConfig(context_length=8, horizon=3, hidden_size=4, head="normal", **settings)
    manifest = BundleManifest(network=config, time_kind="integer")
    return Bundle(manifest, build_forecaster(config).eval(), Path())


def recent() -> pd.DataFrame:
    """Two series of different length."""
    rows = [("a", step, float(step % 5)) for step in range(20)] + [("b", step, 100.0 + step) for step in range(11)]
    return pd.DataFrame(rows, columns=["unique_id", "ds", "y"])


def test_every_future_is_a_column_and_a_seed_repeats_them() -> None:
    """Series by series, step by step, after each series' own end."""
    model = bundle(decoder="recursive")
    futures = sample_frame(model, recent(), num_paths=40, seed=1)
    assert list(futures.columns) == ["unique_id", "ds", *(f"sample_{number}" for number in range(1, 41))]
    assert futures["unique_id"].tolist() == ["a"] * 3 + ["b"] * 3
    assert futures["ds"].tolist() == [20, 21, 22, 11, 12, 13]
    pd.testing.assert_frame_equal(futures, sample_frame(model, recent(), num_paths=40, seed=1))
    assert not futures.equals(sample_frame(model, recent(), num_paths=40, seed=2))
    spread = forecast_frame(model, recent())
    inside = futures.iloc[:, 2:].to_numpy()
    share = (inside <= spread[["0.9"]].to_numpy()).mean()
    assert share == pytest.approx(0.9, abs=0.06)
    assert np.isfinite(inside).all()


def test_a_model_that_draws_nothing_is_asked_in_vain() -> None:
    """With what to train instead."""
    with pytest.raises(SamplesError, match="decoder direct and head normal instead"):
        sample_frame(bundle(), recent(), num_paths=2, seed=0)
