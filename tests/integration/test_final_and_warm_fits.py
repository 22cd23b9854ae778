"""A fit on all rows after selection, and a fit from the weights of a registered version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models.bundle import load_bundle
from training import warm_start
from training.config import build_config
from training.errors import ConfigurationError
from training.loop import Fit
from training.pipeline import train
from training.tracking.references import ResolvedModel
from training.warm_start import adopt

HORIZON = 6


def write_waves(path: Path, spoilt_from: int | None = None) -> Path:
    """240 hours of a daily wave; rows from `spoilt_from` on are ten times as large."""
    hours = np.arange(240)
    y = 10 + np.sin(2 * np.pi * hours / 24) + np.random.default_rng(0).normal(0, 0.1, 240)
    if spoilt_from is not None:
        y[spoilt_from:] *= 10
    ds = pd.date_range("2024-01-01", periods=240, freq="h")
    pd.DataFrame({"unique_id": "s", "ds": ds, "y": y}).to_csv(path, index=False)
    return path


def configuration(path: Path, **sections):
    tree = {
        "data": {"path": str(path), "season_length": 24, "test_size": 12, "val_size": 24},
        "model": {"horizon": HORIZON, "context_length": 24, "hidden_size": 4, "initialization": "torch"},
        "optimizer": {"schedule": "constant", "learning_rate": 0.01},
        "fit": {"max_steps": 8, "batch_size": 64, "val_check_steps": 2},
        "gradients": {"preset": "off", "need_steps": 24},
        "tracking": {"register": False, "model_name": "waves"},
    }
    for section, values in sections.items():
        tree[section] = tree.get(section, {}) | values
    return build_config(tree)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training without a final fit, with one, and with one on other test rows."""
    root = tmp_path_factory.mktemp("runs")
    plain, spoilt = write_waves(root / "a.csv"), write_waves(root / "b.csv", 230)
    final = {"fit": {"final": True}}
    return {
        "without": train(configuration(plain), output=root / "without"),
        "with": train(configuration(plain, **final), output=root / "with"),
        "spoilt": train(configuration(spoilt, **final), output=root / "spoilt"),
    }


def bundle_of(result):
    return load_bundle(result.directory / "bundle")


def weights_of(result):
    return torch.cat([tensor.flatten() for tensor in bundle_of(result).forecaster.state_dict().values()])


def test_a_final_fit_knows_all_rows_and_says_so(runs):
    """Its bundle is trained until the last row, names its steps, and the card says whose scores those are."""
    without, final = runs["without"], runs["with"]
    assert bundle_of(final).manifest.final_fit_steps == max(1, final.state.best_step)
    assert bundle_of(without).manifest.final_fit_steps is None
    assert bundle_of(final).manifest.trained_until == "2024-01-10 23:00:00"
    assert bundle_of(without).manifest.trained_until == "2024-01-09 11:00:00"
    assert "this network has no rows left to be measured on" in final.note
    assert not (final.directory / "final").exists()


def test_scores_are_those_of_the_selected_fit_and_the_weights_are_not(runs):
    """Metrics are equal to those without a final fit; the deployed weights differ."""
    assert bundle_of(runs["with"]).manifest.metrics == bundle_of(runs["without"]).manifest.metrics
    assert not torch.equal(weights_of(runs["with"]), weights_of(runs["without"]))


def test_the_final_fit_learns_from_the_test_rows_and_selection_does_not(runs):
    """Other test rows change the deployed weights and nothing of what was selected on."""
    assert not torch.equal(weights_of(runs["with"]), weights_of(runs["spoilt"]))
    for result in (runs["with"], runs["spoilt"]):
        assert result.state.best_val_loss == runs["without"].state.best_val_loss


def test_a_warm_start_begins_with_the_weights_of_the_version(runs, tmp_path, monkeypatch):
    """Before the first step the network is that of the version; an alias is pinned to its number in configuration and bundle."""
    first = runs["without"]
    # The registry has tests of its own: here it holds one version, whatever its store.
    found = ResolvedModel("waves", 3, ("champion",))
    monkeypatch.setattr(warm_start, "resolve", lambda _uri, reference: {"waves@champion": found, "waves/3": found}[reference])
    monkeypatch.setattr(warm_start, "download_bundle", lambda *_: first.directory / "bundle")
    seen = {}

    def remember(self):
        seen["start"] = {name: tensor.clone() for name, tensor in self.forecaster.state_dict().items()}
        seen["keeps"] = self.keep_start
        return run(self)

    run = Fit.run
    monkeypatch.setattr(Fit, "run", remember)
    config = build_config(
        {
            "data": {"path": str(write_waves(tmp_path / "a.csv")), "test_size": 12, "val_size": 24},
            "fit": {"max_steps": 2, "batch_size": 8, "val_check_steps": 2, "warm_start": "waves@champion"},
            "gradients": {"preset": "off"},
            "tracking": {"register": False},
        }
    )
    result = train(config, output=tmp_path / "second")
    expected = bundle_of(first).forecaster.state_dict()
    assert seen["keeps"]
    assert all(torch.equal(seen["start"][name], tensor) for name, tensor in expected.items())
    assert result.prepared.config.fit.warm_start == bundle_of(result).manifest.warm_start == "waves/3"
    assert result.prepared.config.model.hidden_size == 4
    assert "started from the weights of `waves/3`" in result.note


def test_what_the_weights_cannot_be_is_refused_together(runs):
    """Another size, another column and another step are each named, with what to do."""
    config = configuration(
        Path("a.csv"), model={"hidden_size": 8}, data={"futr_exog": ["price"], "freq": "D"}
    )
    with pytest.raises(ConfigurationError) as refused:
        adopt(config, bundle_of(runs["without"]), "waves/1")
    problems = {problem.where: problem for problem in refused.value.problems}
    assert set(problems) == {"model.hidden_size", "data.futr_exog", "data.freq"}
    assert str(problems["model.hidden_size"]).endswith("is 8, but 4 in waves/1. Leave it out: it is taken from waves/1.")
