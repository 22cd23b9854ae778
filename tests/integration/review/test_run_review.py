"""A run is reviewed from its directory alone, whether it has ended or not."""

from __future__ import annotations

import os

import pytest
import torch

from tests.integration.review.example_run import (
    LAGS,
    NEED,
    REACH,
    STEPS,
    build_evidence,
    build_readings,
    build_settings,
    build_verdict,
    write_run,
)
from training.checkpoint import LAST, write_checkpoint
from training.errors import CheckpointError
from training.gradients.conclusion import conclude
from training.gradients.readings import Readings
from training.report.flow import flow_map, flow_steps, layers_of, median_curve, reach_of_curve, spread_steps
from training.report.review import latest_run, read_run


def write_unfinished(path, with_evidence=False):
    """A run at step 300 of which only the checkpoint is there."""
    write_run(path, status="running")
    for name in ("readings.parquet", "verdict.json", *(() if with_evidence else ("evidence.json",))):
        (path / "gradients" / name).unlink()
    document = {"step": 300, "best_step": 200, "readings": build_readings().to_dict()}
    write_checkpoint(path / "checkpoints" / LAST, {"x": torch.zeros(1)}, document)
    return path


def test_a_finished_run_is_read_as_it_was_written(run_directory):
    """Verdict, evidence and readings are those of the files; nothing is concluded anew."""
    review = read_run(run_directory)
    assert (review.name, review.status, review.is_preliminary) == ("bike", "finished", False)
    assert review.verdict == build_verdict()
    assert review.evidence == build_evidence(build_settings())
    assert review.readings.curve("jacobian/stack") == pytest.approx(build_readings().curve("jacobian/stack"))
    assert review.layers == ("stack", "lstm.1", "lstm.0")
    assert review.config_path == run_directory / "config.yaml"


def test_a_running_run_is_concluded_from_its_checkpoint(tmp_path):
    """Its verdict is what the rules say about the readings so far, marked as preliminary."""
    review = read_run(write_unfinished(tmp_path / "run"))
    assert (review.status, review.is_preliminary) == ("running", True)
    assert (review.evidence.step, review.evidence.best_step) == (300, 200)
    assert review.evidence.layers == ("lstm.0", "lstm.1")
    assert review.evidence.outcome is None
    assert review.verdict == conclude(review.evidence, build_readings())
    assert review.verdict.verdict == "inconclusive"
    assert review.verdict.reach_steps == REACH


def test_a_running_run_keeps_the_need_known_at_its_start(tmp_path):
    """Evidence written at the start is used, with the step of the checkpoint."""
    review = read_run(write_unfinished(tmp_path / "run", with_evidence=True))
    assert review.verdict.need_steps == NEED
    assert review.is_preliminary


def test_the_newest_run_is_the_default(tmp_path, monkeypatch):
    """Without a name, the run whose state changed last is meant, finished or not."""
    monkeypatch.chdir(tmp_path)
    for age, name in ((200, "old"), (100, "new")):
        write_run(tmp_path / "runs" / name)
        stamp = (tmp_path / "runs" / name / "run.json").stat().st_mtime - age
        os.utime(tmp_path / "runs" / name / "run.json", (stamp, stamp))
    assert latest_run().name == "new"
    assert read_run().name == "new"


@pytest.mark.parametrize("damage", ["verdict.json", "evidence.json", "readings.parquet"])
def test_a_damaged_file_is_named(run_directory, damage):
    """A file that cannot be read is an error with its path, not a traceback of its format."""
    (run_directory / "gradients" / damage).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=damage):
        read_run(run_directory)


def test_what_is_no_run_is_said(tmp_path):
    """A directory without a run, none at all, and a run without a checkpoint are told apart."""
    with pytest.raises(CheckpointError, match=r"run\.json"):
        read_run(tmp_path)
    with pytest.raises(CheckpointError, match="folder with a run"):
        latest_run(tmp_path)
    run = write_unfinished(tmp_path / "run")
    (run / "checkpoints" / LAST).unlink()
    with pytest.raises(CheckpointError, match="val_check_steps"):
        read_run(run)


def test_a_verdict_survives_without_evidence(run_directory):
    """A fit that stopped early leaves a verdict and little else; it is shown with what there is."""
    for name in ("evidence.json", "readings.parquet"):
        (run_directory / "gradients" / name).unlink()
    review = read_run(run_directory)
    assert review.verdict == build_verdict()
    assert review.evidence.need is None
    assert review.layers == ()


def test_flow_is_the_readings_as_a_map():
    """Rows are lags, columns steps, values decimal logarithms of the ratios given."""
    readings = build_readings()
    steps, lags, decades = flow_map(readings, "stack")
    assert (tuple(steps), tuple(lags)) == (STEPS, LAGS)
    assert decades[LAGS.index(20), -1] == pytest.approx(-17 / 3 * 0.30103, abs=1e-4)
    assert decades.min() == -8
    assert flow_steps(readings) == list(STEPS)
    assert layers_of(Readings()) == []


def test_the_reach_of_a_curve_is_where_a_thousandth_is_left():
    """With a half-life of three steps from lag 3 on, a thousandth is left 29.9 steps later."""
    readings = build_readings()
    assert reach_of_curve(readings.curve("jacobian/stack")) == REACH
    assert reach_of_curve(median_curve(readings, "stack")) < REACH


def test_the_typical_reach_shows_only_where_the_end_hides_it(review):
    """A verdict of vanishing rests on the whole training; if only the end reaches the need, the median is shown."""
    assert review.typical_reach is None
    late = type(review)(**(vars(review) | {"verdict": review.verdict.model_copy(update={"reach_steps": 168})}))
    assert late.typical_reach == reach_of_curve(median_curve(late.readings, "stack"))
    assert late.shown_curve == median_curve(late.readings, "stack")


def test_a_slider_has_few_places_with_both_ends():
    """However many measurements there are, at most sixteen are shown, the first and the last among them."""
    steps = list(range(1, 2000, 7))
    shown = spread_steps(steps)
    assert len(shown) == 16
    assert (shown[0], shown[-1]) == (steps[0], steps[-1])
    assert spread_steps([1, 100]) == [1, 100]
    assert spread_steps([]) == []
