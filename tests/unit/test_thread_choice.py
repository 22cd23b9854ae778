"""Threads of a fit that was not told: measured once, bounded by what is allowed, and the same when it is resumed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training import pipeline, thread_choice
from training.checkpoint import LAST, read_checkpoint
from training.config import TrainingConfig, load_config
from training.data.shipped import shipped_path
from training.loop import FitInterruptedError
from training.preparation import prepare
from training.run_directory import RunDirectory
from training.thread_choice import ThreadChoice, candidates, choose_threads, fewest
from training.threads import kept_threads

SMALL = (
    "model.horizon=12", "model.context_length=24", "model.hidden_size=16", "fit.max_steps=12", "fit.val_check_steps=4",
    "gradients.need_steps=12", "gradients.preset=off", "fit.patience=null", "model.dropout=0.2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads allowed, and a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with kept_threads():
        torch.set_num_threads(2)
        yield


def config(*overrides: str) -> TrainingConfig:
    return load_config(None, [*SMALL, *overrides], {"data.path": str(shipped_path())})


def test_the_fewest_that_are_nearly_fastest_are_taken() -> None:
    """Five percent slower is nearly as fast, and leaves cores to others."""
    assert fewest({8: 1.0, 4: 1.04, 2: 1.5, 1: 3.0}) == 4
    assert fewest({2: 1.2, 1: 1.0}) == 1
    assert candidates(6) == (6, 4, 2, 1)
    assert candidates(1) == (1,)


def test_a_choice_is_measured_once_and_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time it is known; another shape is measured."""
    monkeypatch.setattr(thread_choice, "_IDLE_SHARE", 0.0)  # however busy the machine of the test is
    prepared = prepare(config())
    before, state = [tensor.clone() for tensor in prepared.forecaster.parameters()], torch.get_rng_state()
    first, again = choose_threads(prepared), choose_threads(prepared)
    assert first.num_threads == again.num_threads in (1, 2)
    assert first.reason == "of at most 2; measured for this machine and shape"
    assert again.reason == "of at most 2; measured before for this machine and shape"
    assert torch.get_num_threads() == 2
    assert torch.equal(state, torch.get_rng_state())
    assert all(itertools.starmap(torch.equal, zip(before, prepared.forecaster.parameters(), strict=True)))
    assert "measured for" in str(choose_threads(prepare(config("model.hidden_size=24"))).reason)


def test_a_choice_made_on_a_busy_machine_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited for a core may have seen anything: the next run measures again."""
    monkeypatch.setattr(thread_choice, "_IDLE_SHARE", 2.0)
    chosen = choose_threads(prepare(config()))
    assert chosen.num_threads in (1, 2)
    assert "others keep busy" in str(chosen.reason)
    assert not (tmp_path / "cache").exists()


def test_what_was_told_is_followed_and_a_limit_of_one_leaves_no_choice(tmp_path: Path) -> None:
    """Nothing is measured: jobs run with one thread each, and say so by OMP_NUM_THREADS."""
    assert choose_threads(prepare(config("fit.num_threads=2"))) == ThreadChoice(2, None)
    torch.set_num_threads(1)
    assert choose_threads(prepare(config())) == ThreadChoice(1, None)
    assert not (tmp_path / "cache").exists()


def test_a_resumed_run_has_the_threads_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, and resumed where one thread is the limit: two threads again, and the weights of the run that went through."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "choose_threads", lambda *_arguments: ThreadChoice(2, "of two"))
    said: list[str] = []
    pipeline.train(config(), output=Path("whole"), say=said.append)
    assert "fit.num_threads = 2 (of two)" in said
    seen: list[int] = []

    def stop_after_some() -> bool:
        seen.append(torch.get_num_threads())
        return len(seen) > 8

    with pytest.raises(FitInterruptedError):
        pipeline.train(config(), output=Path("stopped"), stop_requested=stop_after_some)
    run = RunDirectory.open(Path("stopped"))
    assert run.state()["num_threads"] == 2
    torch.set_num_threads(1)
    monkeypatch.delattr(pipeline, "choose_threads")
    seen_again: list[int] = []
    pipeline.train(run.config(), resume=run, stop_requested=lambda: bool(seen_again.append(torch.get_num_threads())))
    assert 2 in seen_again, "while it fitted"
    assert torch.get_num_threads() == 1, "and afterwards as before"
    whole, resumed = (read_checkpoint(Path(name) / "checkpoints" / LAST)[0] for name in ("whole", "stopped"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("recorded", ["two", 99999, True])
def test_a_number_nobody_recorded_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: object) -> None:
    """A state written by hand, or by a version without it: torch's own number."""
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create(config(), Path("run"))
    run.write_state(num_threads=recorded)
    seen: list[int] = []
    pipeline.train(run.config(), resume=run, stop_requested=lambda: bool(seen.append(torch.get_num_threads())))
    assert set(seen) == {2}
