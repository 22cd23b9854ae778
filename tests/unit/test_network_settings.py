"""Settings of networks that do not go together are refused before anything is read."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from models.config import LSTMConfig
from training.commands.options import ARCHITECTURES
from training.config import ArchitectureName, DataConfig, build_config
from training.data.counts import validate_counts
from training.data.panel import build_panel
from training.errors import ConfigurationError, DataError


def refusal(**sections: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        build_config(sections)
    assert len(caught.value.problems) == 1
    return str(caught.value.problems[0])


@pytest.mark.parametrize(
    ("model", "fit", "words"),
    [
        ({"head": "poisson", "scaler": "standard"}, {}, "model.scaler: standard moves the zero"),
        ({"head": "negative_binomial", "scaler": "revin"}, {}, "Set model.scaler: mean_abs"),
        ({"head": "poisson", "conformal": "split"}, {}, "model.conformal: split shifts quantiles off the whole numbers"),
        ({"decoder": "recursive", "head": "quantile"}, {}, "model.decoder: recursive draws every step from a distribution"),
        ({"decoder": "recursive", "skip": "linear"}, {}, "model.skip: linear hands over a whole horizon"),
        ({"decoder": "recursive", "architecture": "segrnn"}, {}, "recursive reads step by step, which"),
        ({"linear_share": 0.5}, {}, "model.linear_share: only segrnn has it; model.architecture is left open"),
        ({"architecture": "gru", "recurrent_length": 9}, {}, "model.recurrent_length: only segrnn has it"),
        ({"architecture": "segrnn", "linear_share": 0.5, "head": "normal"}, {}, "Use model.head: point or quantile."),
        (
            {"architecture": "segrnn", "linear_length": 9, "context_length": 8}, {},
            "model.linear_length: must be at most model.context_length, 8, but is 9",
        ),
        ({"head": "normal"}, {"loss": "mse"}, "fit.loss: mse needs model.head: point; normal is trained by nll"),
        ({"head": "point"}, {"loss": "nll"}, "nll needs model.head: normal or student_t or"),
        ({"head": "point"}, {"loss": "quantile"}, "quantile needs model.head: quantile"),
        ({"head": "quantile"}, {"loss": "huber"}, "huber needs model.head: point"),
    ],
)
def test_an_impossible_combination_is_refused_with_its_key(
    model: dict[str, Any], fit: dict[str, Any], words: str
) -> None:
    """One problem, with what to set instead."""
    assert words in refusal(model=model, fit=fit)


def test_an_architecture_and_a_head_bring_their_defaults() -> None:
    """What is written down beats them; everything else keeps the common ones."""
    segments = build_config({"model": {"architecture": "segrnn", "hidden_size": 32}}).model
    assert (segments.hidden_size, segments.dropout, segments.scaler) == (32, 0.1, "standard")
    assert build_config({"model": {"architecture": "segrnn", "head": "poisson"}}).model.scaler == "mean_abs"
    assert build_config({"model": {"head": "negative_binomial"}}).model.scaler == "mean_abs"
    assert build_config({"model": {"decoder": "recursive"}}).model.head == "student_t"
    common = build_config({}).model
    assert (common.hidden_size, common.dropout, common.scaler) == (64, 0.0, "standard")


def test_the_command_line_offers_every_architecture() -> None:
    """The list that `--help` shows is the configuration's."""
    assert get_args(ArchitectureName) == ARCHITECTURES


def test_a_bundle_cannot_describe_what_the_configuration_refuses() -> None:
    """The network's own description holds the same rule."""
    with pytest.raises(ValidationError, match="zero stays zero"):
        LSTMConfig(context_length=4, horizon=2, head="poisson", scaler="standard")
    with pytest.raises(ValidationError, match="leave the whole numbers"):
        LSTMConfig(context_length=4, horizon=2, head="poisson", scaler="none", conformal="split")


def counts_of(values: list[float]) -> None:
    frame = pd.DataFrame({"unique_id": "a", "ds": np.arange(len(values)), "y": values})
    validate_counts(build_panel(frame, DataConfig(season_length=1)), "poisson")


def test_what_is_not_counted_is_refused_for_a_distribution_over_counts() -> None:
    """Negative and fractional values are named; gaps are none of them."""
    counts_of([0, 3, np.nan, 7, 2, 5])
    with pytest.raises(DataError, match="1 values that are not, the first negative"):
        counts_of([0, 3, -1, 7, 2, 5])
    with pytest.raises(DataError, match="2 values that are not, the first fractional"):
        counts_of([0, 3.5, 1.25, 7, 2, 5])
