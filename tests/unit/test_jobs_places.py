"""Room on a machine: as many trainings as it may run, a card for each, and everything free again when they die."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from app.jobs.gpus import find_gpus
from app.jobs.job_directory import JobDirectory
from app.jobs.limits import num_cores, thread_environment
from app.jobs.places import Places

FIRST, SECOND = "GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-000000000000"
INSTANCE = "MIG-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
TWO = f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {FIRST})\nGPU 1: NVIDIA L4 (UUID: {SECOND})\n"
DIVIDED = f"GPU 0: NVIDIA A100 (UUID: {FIRST})\n  MIG 1g.5gb      Device  0: (UUID: {INSTANCE})\nGPU 1: L4 (UUID: {SECOND})\n"


@pytest.fixture
def machine(tmp_path):
    """An environment whose `nvidia-smi` lists what it is given."""

    def make(listing: str, exit_code: int = 0, **variables: str) -> dict[str, str]:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        (tmp_path / "listing").write_text(listing)
        program.write_text(f"#!/bin/sh\ncat '{tmp_path / 'listing'}'\nexit {exit_code}\n")
        program.chmod(0o755)
        return {"PATH": f"{program.parent}:/usr/bin:/bin", **variables}

    return make


def test_cards_are_found_by_their_driver(machine, tmp_path):
    """By `nvidia-smi`, else where the kernel's driver lists them; a divided card stands for its instances; else there is none."""
    nothing = tmp_path / "nothing"
    assert find_gpus(machine(TWO), nothing) == (FIRST, SECOND)
    assert find_gpus(machine(DIVIDED), nothing) == (INSTANCE, SECOND)
    assert find_gpus(machine("No devices were found\n"), nothing) == ()
    assert find_gpus(machine("NVIDIA-SMI has failed\n", exit_code=9), nothing) == ()
    assert find_gpus({"PATH": ""}, nothing) == ()
    for place, uuid in (("0000:01:00.0", FIRST), ("0000:02:00.0", SECOND)):
        folder = tmp_path / "driver" / place
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t NVIDIA\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\n")
    assert find_gpus({"PATH": ""}, tmp_path / "driver") == (FIRST, SECOND)


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ("1,0", (SECOND, FIRST)), ("1", (SECOND,)), ("", ()), ("-1", ()), ("0,-1,1", (FIRST,)), ("0,7", (FIRST,)),
        (SECOND, (SECOND,)), ("GPU-6666", (SECOND,)), ("GPU-", ()), ("0,0", (FIRST,)),
    ],
)  # fmt: skip
def test_only_visible_cards_are_given(machine, tmp_path, shown, found):
    """CUDA_VISIBLE_DEVICES is read as CUDA does: numbers or beginnings of UUIDs, up to the first that is no card."""
    assert find_gpus(machine(TWO, CUDA_VISIBLE_DEVICES=shown), tmp_path / "nothing") == found


def test_no_two_trainings_share_a_card_and_more_of_them_wait(tmp_path):
    """Two workers of one machine with room for four and two cards: each card once; who wants none is not kept waiting by them."""
    one, other = (Places(tmp_path, 4, (FIRST, SECOND)) for _ in range(2))
    first, second = one.take(), other.take()
    assert [place.environment for place in (first, second)] == [{"CUDA_VISIBLE_DEVICES": FIRST}, {"CUDA_VISIBLE_DEVICES": SECOND}]
    assert one.take() is None
    assert other.take() is None
    without = one.take(wants_gpu=False)
    assert without.environment == {"CUDA_VISIBLE_DEVICES": ""}
    first.release()
    third = other.take()
    assert third.environment == {"CUDA_VISIBLE_DEVICES": FIRST}
    for place in (second, without, third):
        place.release()


def test_a_machine_takes_no_more_than_its_bound_over_all_its_workers(tmp_path):
    """The bound is of the machine, and without cards nothing is said of them."""
    workers = [Places(tmp_path, 2) for _ in range(3)]
    places = [worker.take() for worker in workers]
    assert [place is None for place in places] == [False, False, True]
    assert places[0].environment == {}
    places[0].release()
    assert workers[2].take() is not None
    places[1].release()


def test_a_place_is_free_when_worker_and_training_are_dead(tmp_path):
    """Killed -9: held by the training as long as it lives, and then by nobody."""
    places = Places(tmp_path, 1, (FIRST,))
    place = places.take()
    training = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=place.descriptors)
    place.release()  # as the kernel does for a worker that dies
    assert places.take() is None
    training.send_signal(signal.SIGKILL)
    training.communicate()
    assert places.take() is not None


@pytest.mark.parametrize(
    ("config", "wants"), [("fit: {}\n", True), ("fit: {device: cuda}\n", True), ("fit: {device: cpu}\n", False), ("a: 1\n", True)]
)
def test_a_job_for_the_cpu_takes_no_card(tmp_path, config, wants):
    """What it is configured for decides."""
    job = JobDirectory.create(tmp_path, config, dataset_id="d", dataset_name="d", model_name="m", promote=False)
    assert job.wants_gpu is wants


def test_trainings_together_have_no_more_threads_than_there_are_cores(monkeypatch):
    """One thread, or what the user says, but no more than an equal share of the cores, which `fit.num_threads` cannot exceed."""
    monkeypatch.setattr("app.jobs.limits.num_cores", lambda: 8)
    assert thread_environment(1, {}) == {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "8"}
    assert thread_environment(2, {"OMP_NUM_THREADS": "6"}) == {"OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "4"}
    assert thread_environment(2, {"OMP_NUM_THREADS": "2"}) == {"OMP_NUM_THREADS": "2", "OMP_THREAD_LIMIT": "4"}
    assert thread_environment(30, {"OMP_NUM_THREADS": "2"}) == {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1"}
    assert thread_environment(1, {"OMP_THREAD_LIMIT": "3"}) == {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "3"}
    assert thread_environment(0, {}) == {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "8"}
    monkeypatch.undo()
    assert num_cores() >= 1
