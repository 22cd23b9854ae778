"""A training is stopped, killed, starved of disk and moved in time; the way on that it names leads to the same model."""

from __future__ import annotations

import os
import shutil
import signal
import time

import pytest

from tests.faults import runs
from tests.faults.children import PHASES, Fault, kill_group, run_command, start
from tests.faults.runs import finish, losses, named_way_on, run, said, weights, words_for
from training.checkpoint import LAST, PREVIOUS
from training.run_directory import RunDirectory
from training.tracking.sync import sync

RESUME = ["train", "--resume", "run", "--quiet"]


@pytest.fixture(scope="session")
def undisturbed(waves, empty_store, tmp_path_factory):
    """The weights of the same training without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    finish(folder, words_for(waves, f"sqlite:///{folder / 'mlflow.db'}"))
    return weights(folder)


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "finish"])
def test_sigterm_in_every_phase_leaves_a_run_that_goes_on(phase, tmp_path, store, waves, undisturbed, ledger):
    """Stopped anywhere, the training ends soon with 130, says what is true, and the command it names ends in the same weights,
    every point and the version once.
    """
    uri = store()
    command = words_for(waves, uri)
    code = run(tmp_path, command, Fault("signal", phase, 1, signal.SIGTERM))
    if phase == "register":  # nothing is left to stop for: the model is being registered
        assert code == 0
        assert RunDirectory(tmp_path / "run").state()["status"] == "finished"
    else:
        assert code == 130
        assert "stopped" in said(tmp_path)
        if (tmp_path / "run").exists():
            assert RunDirectory(tmp_path / "run").state()["status"] == "stopped"
        else:
            assert "before it began" in said(tmp_path)
    seconds = 0.0 if code == 0 else finish(tmp_path, named_way_on(tmp_path, command))
    assert weights(tmp_path) == undisturbed
    ledger.record("SIGTERM to the training, each phase", *losses(uri), seconds)


@pytest.mark.parametrize("phase", ["fit", "publish", "register", "finish"])
def test_kill_9_of_the_training_loses_and_doubles_nothing(
    phase, tmp_path, store, waves, undisturbed, ledger, moments, monkeypatch
):
    """Killed outright, its directory is no longer called running, sync closes its run, and resuming ends in the same weights."""
    uri = store()
    entry = moments.randint(2, runs.STEPS) if phase == "fit" else 1
    assert run(tmp_path, words_for(waves, uri), Fault("signal", phase, entry, signal.SIGKILL)) == -signal.SIGKILL
    assert not RunDirectory(tmp_path / "run").is_running
    monkeypatch.chdir(tmp_path)
    sync(tmp_path / "spool")
    seconds = finish(tmp_path, RESUME)
    assert weights(tmp_path) == undisturbed
    ledger.record("kill -9 of the training", *losses(uri), seconds)


def test_kill_9_at_a_random_moment(tmp_path, store, waves, undisturbed, ledger, moments):
    """The same by the clock, whatever it was doing; killed again while it resumes."""
    uri = store()
    command = words_for(waves, uri)
    for _ in range(2):
        process = start(run_command, tmp_path, command, runs.NO_FAULT)
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "run.json").exists() and process.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.6))
        kill_group(process)
        command = RESUME
    seconds = finish(tmp_path, RESUME)
    assert weights(tmp_path) == undisturbed
    ledger.record("kill -9 of the training", *losses(uri), seconds)


def test_a_full_disk_ends_the_run_and_names_the_way_on(tmp_path, store, waves, undisturbed, ledger):
    """The checkpoint does not fit: exit 1, the directory says failed, the old checkpoint is whole, and with room it goes on."""
    uri = store()
    code = run(tmp_path, words_for(waves, uri), Fault("disk_full", "check", 3))
    assert code == 1
    assert "No space left on device" in said(tmp_path)
    assert RunDirectory(tmp_path / "run").state()["status"] == "failed"
    seconds = finish(tmp_path, named_way_on(tmp_path, []))
    assert weights(tmp_path) == undisturbed
    ledger.record("disk full under the training", *losses(uri), seconds)


def test_a_read_only_directory_is_named_before_anything_is_lost(tmp_path, store, waves, ledger):
    """Nothing can be written: exit 1, the directory and another way are named; writable again, the same command works."""
    uri = store()
    (tmp_path / "train.log").touch()
    place = tmp_path / "closed"
    place.mkdir()
    words = [*words_for(waves, uri), "--output", "closed/run"]
    place.chmod(0o555)
    code = run(tmp_path, words, read_only=True)
    place.chmod(0o755)
    assert code == 1
    assert "closed/run must be writable" in said(tmp_path)
    assert "--output" in said(tmp_path).rpartition("must be writable")[2]
    seconds = finish(tmp_path, words)
    ledger.record("read-only directory", *losses(uri), seconds)


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_changes_nothing(jump, tmp_path, store, waves, undisturbed, ledger):
    """A day back or forward in mid-run: the same weights, every point once, and the run does not end before it began."""
    uri = store()
    started = time.monotonic()
    assert run(tmp_path, words_for(waves, uri), Fault("clock", "check", 2, jump)) == 0, said(tmp_path)
    assert weights(tmp_path) == undisturbed
    ledger.record("clock steps by a day", *losses(uri), time.monotonic() - started)


def test_a_torn_checkpoint_costs_the_steps_since_the_one_before(tmp_path, store, waves, undisturbed, ledger, moments):
    """The last checkpoint is cut at a random byte: the one before it is taken, and that is said."""
    uri = store()
    assert run(tmp_path, words_for(waves, uri), Fault("signal", "check", 4, signal.SIGKILL)) < 0
    last = tmp_path / "run" / "checkpoints" / LAST
    os.truncate(last, moments.randrange(last.stat().st_size))
    assert (last.with_name(PREVIOUS)).exists()
    seconds = finish(tmp_path, [word for word in RESUME if word != "--quiet"])
    assert "the checkpoint before it is taken" in said(tmp_path)
    assert f"resumed at step {2 * runs.CHECK_STEPS}" in said(tmp_path)
    assert weights(tmp_path) == undisturbed
    ledger.record("checkpoint torn in mid-write", *losses(uri), seconds)


def test_two_trainers_on_one_name_get_a_version_each_and_one_directory_admits_one(tmp_path, store, waves, ledger):
    """Two trainings of one model name at once become two runs and two versions; a second one in the same directory is refused."""
    uri = store()
    started = time.monotonic()
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    children = [start(run_command, folder, words_for(waves, uri), runs.NO_FAULT) for folder in folders]
    for child, folder in zip(children, folders, strict=True):
        child.join(runs.DEADLINE_SECONDS)
        assert child.exitcode == 0, said(folder)
    seconds = time.monotonic() - started
    with RunDirectory(folders[0] / "run").locked():
        assert run(folders[0], RESUME) == 2
    assert "being trained by another process" in said(folders[0])
    ledger.record("two trainers on one model name", *losses(uri, num_runs=2, num_versions=2), seconds)
