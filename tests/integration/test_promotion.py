"""Promotion through the registry and the command line, with bundles whose scores are known."""

from __future__ import annotations

import json
import shutil

import pytest

from models.bundle import load_bundle
from tests.integration.service.service_bundles import write_bundle
from tests.integration.test_training_run import write_series
from training.cli import main
from training.config import build_config
from training.errors import PromotionRefusedError
from training.pipeline import train
from training.rematch import score_on
from training.run_directory import RunDirectory
from training.tracking import registry
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.promotion import PROMOTION_TAG, Gate
from training.tracking.tracker import RegistrationRequest, RunDescription

BASELINES = {"naive": {"val/mae": 4.0, "val/rmse": 5.0}, "seasonal_naive": {"val/mae": 2.0, "val/rmse": 2.5}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A registry with a champion and three versions that would take its place: better, worse, and not healthy."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    for number, (mae, verdict) in enumerate([(1.5, "healthy"), (1.2, "healthy"), (1.8, "healthy"), (1.0, "vanishing")]):
        bundle = write_bundle(
            folder / str(number), seed=number, metrics={"val/mae": mae}, baselines=BASELINES, gradient={"verdict": verdict}
        )
        tracker = MlflowTracker(uri, in_process=True)
        tracker.start(RunDescription("gate"))
        tracker.register(RegistrationRequest("bike", bundle, healthy=verdict == "healthy"))
        tracker.finish("FINISHED")
    return folder, uri


def test_the_gate_moves_champion_only_to_the_better_version(store, tmp_path, monkeypatch, capsys):
    """The worse one is refused by the command with exit code 2, the better one becomes champion, and why is kept."""
    _, uri = store
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["models", "promote", "bike", "3", "champion", "--tracking-uri", uri, "--json"]) == 2
    output = capsys.readouterr()
    decision = json.loads(output.out)
    assert (decision["is_allowed"], decision["is_promoted"], decision["champion"]) == (False, False, 1)
    assert decision["reasons"][0].startswith("It is not better than the champion, version 1: val/mae 1.8 against 1.5")
    assert "bike version 3 stays what it is" in output.err
    assert registry.show_model(uri, "bike").aliases["champion"] == 1
    assert main(["models", "promote", "bike", "2", "champion", "--tracking-uri", uri]) == 0
    assert registry.show_model(uri, "bike").aliases["champion"] == 2
    record = json.loads(registry.resolve(uri, "bike/2").tags[PROMOTION_TAG])
    assert (record["champion"], record["compared_by"], record["override"]) == (1, "val/mae", None)


def test_an_override_needs_a_reason_and_is_kept(store, tmp_path, monkeypatch, capsys):
    """A version that the gate refuses is promoted with a reason, which stands in its tags; other aliases move freely."""
    folder, uri = store
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(PromotionRefusedError):
        Gate(uri, folder / "cache").promote("bike", 4)
    assert main(["models", "promote", "bike", "4", "champion", "--tracking-uri", uri, "--override", " "]) == 2
    assert "override" in capsys.readouterr().err
    decision = Gate(uri, folder / "cache").promote("bike", 4, "The customer asked for it.")
    assert (decision.is_allowed, decision.is_promoted) == (False, True)
    record = json.loads(registry.resolve(uri, "bike/4").tags[PROMOTION_TAG])
    assert record["override"] == "The customer asked for it."
    assert main(["models", "promote", "bike", "3", "shadow", "--tracking-uri", uri]) == 0
    assert registry.show_model(uri, "bike").aliases["shadow"] == 3
    shutil.rmtree(folder / "cache", ignore_errors=True)


def test_a_version_scored_again_on_its_own_data_scores_the_same(tmp_path, monkeypatch):
    """What the gate computes of a champion on another's windows is what a training computes of itself there."""
    monkeypatch.chdir(tmp_path)
    config = build_config(
        {
            "data": {"path": str(write_series(tmp_path / "waves.csv")), "test_size": 24},
            "model": {"horizon": 6, "context_length": 12, "hidden_size": 4, "initialization": "torch"},
            "fit": {"max_steps": 3, "val_check_steps": 3},
            "gradients": {"preset": "off"},
        }
    )
    train(config, output=tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    bundle = load_bundle(run.bundle)
    metrics, baselines = score_on(bundle, run.config())
    expected = bundle.manifest.metrics
    assert {"val/mase", "test/mase"} <= set(metrics)
    for key, value in metrics.items():
        assert value == pytest.approx(expected[key], rel=1e-6), key
    assert baselines["seasonal_naive"] == pytest.approx(bundle.manifest.baselines["seasonal_naive"], rel=1e-9)
