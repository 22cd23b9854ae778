"""One job to its outcome, with a stand-in for `gradcast train` that does what the test plans for each of its starts."""

from __future__ import annotations

import json
import sys
import threading
import time

import pytest

from app.jobs import trainer as trainer_module
from app.jobs.job_directory import JobDirectory
from app.jobs.subprocesses import Limits
from app.jobs.trainer import Trainer

STAND_IN = """
import json, os, pathlib, signal, sys, time
words = sys.argv[1:]
resumed = "--resume" in words
run = pathlib.Path(words[words.index("--resume" if resumed else "--output") + 1])
starts = run.parent / "starts.txt"
with starts.open("a") as stream:
    stream.write(("resume" if resumed else "start") + "\\n")
plan = json.loads((run.parent / "plan.json").read_text())
what = plan[min(len(starts.read_text().split()), len(plan)) - 1]
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
(run / "run.json").write_text("{}")
def leave(*_):
    (run / "checkpoints" / "last.safetensors").write_text("state")
    sys.exit(130)
signal.signal(signal.SIGTERM, leave)
if what == "crash":
    (run / "checkpoints" / "last.safetensors").write_text("state")
    os.kill(os.getpid(), signal.SIGKILL)
if what == "wait":
    time.sleep(60)
if what == "grow":
    block = bytearray(400_000_000)
    time.sleep(60)
if isinstance(what, int):
    print("gradcast train: data has 1 problem:\\n  - " + str(run / "x.csv") + ": is odd.", file=sys.stderr)
    sys.exit(what)
model = {"name": "bike", "version": 3, "aliases": []}
print(json.dumps({"run_id": "r", "gradients": {"verdict": "healthy"}, "model": model}))
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """A job and its trainer, for a plan."""
    script = tmp_path / "train.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(trainer_module, "TRAIN", [sys.executable, str(script)])
    monkeypatch.setattr(trainer_module, "RETRY_SECONDS", 0.01)

    def make(*plan, seconds=30.0, memory=2**30, **options):
        spec = {"dataset_id": "d", "dataset_name": "d.csv", "model_name": "bike", "promote": False}
        job = JobDirectory.create(tmp_path / "jobs", "fit: {}\n", **spec)
        (job.path / "plan.json").write_text(json.dumps(plan))
        limits = Limits(seconds, memory, grace_seconds=5.0)
        return job, Trainer(limits, lambda _id: tmp_path / "d.csv", {}, **options)

    return make


def starts(job: JobDirectory) -> list[str]:
    return (job.path / "starts.txt").read_text().split()


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


def test_a_training_that_ends_well_is_a_success(build):
    """State, message and the document it printed are kept, and who wants to promote it is told."""
    told = []
    job, trainer = build("done", on_success=told.append)
    assert job.state == "pending"
    trainer.run(job)
    assert (job.state, job.outcome.message) == ("succeeded", "Verdict healthy; bike version 3 is registered.")
    assert job.result()["run_id"] == "r"
    assert told == [job]
    trainer.run(job)
    assert starts(job) == ["start"]


def test_a_crash_is_followed_by_a_start_from_the_checkpoint(build):
    """Killed by a signal, the training is started again with --resume and can still succeed."""
    job, trainer = build("crash", "crash", "done")
    trainer.run(job)
    assert starts(job) == ["start", "resume", "resume"]
    assert job.state == "succeeded"
    assert [attempt.exit_code for attempt in job.attempts] == [-9, -9, 0]


def test_three_crashes_are_enough(build):
    """A training that always crashes ends as failed, and can be resumed by a person."""
    job, trainer = build("crash")
    trainer.run(job)
    assert len(starts(job)) == 3
    assert (job.state, job.outcome.code) == ("failed", "crashed")
    job.reopen()
    assert (job.state, job.outcome) == ("pending", None)
    trainer.run(job)
    assert len(starts(job)) == 6


@pytest.mark.parametrize(("exit_code", "code"), [(2, "refused"), (3, "non_finite")])
def test_what_would_fail_again_is_not_repeated(build, exit_code, code):
    """A refused configuration and a number that is none end the job at once, with the sentence and without a path."""
    job, trainer = build(exit_code)
    trainer.run(job)
    assert starts(job) == ["start"]
    assert (job.state, job.outcome.code) == ("failed", code)
    assert job.outcome.message == "data has 1 problem:\n  - x.csv: is odd."


def test_an_environment_that_failed_is_tried_again(build):
    """A disk that was full or a server that was away may be back."""
    job, trainer = build(1, "done")
    trainer.run(job)
    assert (job.state, starts(job)) == ("succeeded", ["start", "resume"])


def test_time_and_memory_are_limited(build):
    """Either limit ends the job, and the message says which."""
    job, trainer = build("wait", seconds=1.0)
    trainer.run(job)
    assert (job.state, job.outcome.code) == ("failed", "time_exceeded")
    job, trainer = build("grow", memory=200_000_000)
    trainer.run(job)
    assert (job.state, job.outcome.code) == ("failed", "memory_exceeded")


def test_a_cancelled_job_keeps_its_checkpoint(build):
    """SIGTERM reaches the training, which writes what it has; the job is running until then, and cancelled after."""
    job, trainer = build("wait")
    thread = threading.Thread(target=trainer.run, args=[job])
    thread.start()
    wait_for((job.run / "run.json").exists)
    assert job.state == "running"
    time.sleep(0.1)
    job.request_cancel()
    thread.join(20)
    assert (job.state, job.outcome.code) == ("cancelled", "cancelled")
    assert job.has_checkpoint


def test_a_leaving_worker_leaves_the_job_to_the_next(build):
    """The training stops with a checkpoint, the job is pending, and the next worker goes on from there."""
    leaving = threading.Event()
    job, trainer = build("wait", "done", is_stopping=leaving.is_set)
    thread = threading.Thread(target=trainer.run, args=[job])
    thread.start()
    wait_for((job.run / "run.json").exists)
    leaving.set()
    thread.join(20)
    assert (job.state, job.outcome) == ("pending", None)
    leaving.clear()
    trainer.run(job)
    assert (job.state, starts(job)) == ("succeeded", ["start", "resume"])


def test_a_job_that_lives_is_not_started_twice(build):
    """Whoever finds the lock held goes away."""
    job, trainer = build("done")
    with job.locked() as descriptor:
        assert descriptor is not None
        assert job.state == "running"
        other = threading.Thread(target=trainer.run, args=[job])
        other.start()
        other.join(10)
        assert not (job.path / "starts.txt").exists()
    assert job.state == "pending"
