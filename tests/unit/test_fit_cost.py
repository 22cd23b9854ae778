"""What a fit costs before it is begun: memory and disk beside what they turn out to be, and what is measured only once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training import pipeline, process_memory
from training.config import load_config
from training.data.shipped import shipped_path
from training.fit_cost import measure_cost
from training.fit_memory import MemoryEstimate, ProcessMemory, predict_process
from training.fit_time import Rehearsal, Seconds, extrapolate
from training.machine_cache import cache_directory, remembered
from training.preparation import prepare
from training.process_memory import MemoryGrowth

REPOSITORY = Path(__file__).resolve().parents[2]
MEGABYTE = 10**6
SMALL = (
    "model.horizon=12", "model.context_length=24", "model.hidden_size=16", "fit.max_steps=20", "fit.val_check_steps=10",
    "gradients.need_steps=12", "fit.num_threads=1", "fit.patience=null",
)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_directory()


# --- what is measured once -------------------------------------------------------------------------------------------


def test_an_answer_is_remembered_for_the_same_question_only(cache: Path) -> None:
    """The second time nothing is measured; another question is."""
    answers = iter((5, 7))
    assert remembered("x", {"cores": 2}, lambda: next(answers), 1, 9) == (5, False)
    assert remembered("x", {"cores": 2}, lambda: next(answers), 1, 9) == (5, True)
    assert remembered("x", {"cores": 4}, lambda: next(answers), 1, 9) == (7, False)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"question": {"a": 1}, "answer": "__import__"}',
     b'{"question": {"a": 1}, "answer": true}', b'{"question": {"a": 1}, "answer": 99}', b'{"question": {"a": 2}, "answer": 3}'],
)  # fmt: skip
def test_a_damaged_or_foreign_entry_is_measured_anew(cache: Path, content: bytes) -> None:
    """Whatever lies there: no number, one out of bounds, one of another question."""
    remembered("x", {"a": 1}, lambda: 3, 1, 9)
    (entry,) = cache.iterdir()
    entry.write_bytes(content)
    assert remembered("x", {"a": 1}, lambda: 4, 1, 9) == (4, False)
    assert json.loads(entry.read_text())["answer"] == 4


def test_a_cache_that_cannot_be_written_costs_only_the_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be."""
    place = tmp_path / "file"
    place.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    assert remembered("x", {}, lambda: 3, 1, 9) == (3, False)


def test_libraries_are_unknown_where_they_cannot_be_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can be started: no guess."""

    def refuse() -> int:
        raise OSError

    monkeypatch.setattr(process_memory, "_measure_libraries", refuse)
    assert process_memory.library_bytes() is None


# --- memory ----------------------------------------------------------------------------------------------------------


GROWING = """
from training.process_memory import MemoryGrowth, peak_bytes, resident_bytes
with MemoryGrowth() as outer:
    kept = b"x" * 100_000_000
    with MemoryGrowth() as inner:
        freed = b"x" * 50_000_000
        del freed
print(outer.kept, outer.peak, inner.kept, inner.peak, resident_bytes(), peak_bytes())
"""


def test_growth_is_what_was_kept_and_the_most_that_was_held() -> None:
    """A hundred million bytes that stay and fifty that go, in a process of its own: what others freed would be used first."""
    command = [sys.executable, "-c", GROWING]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    found = [int(word) / MEGABYTE for word in done.stdout.split()]
    assert found[:4] == [pytest.approx(value, abs=5) for value in (100, 150, 0, 50)]
    assert 100 < found[4] < found[5]


def test_the_peak_is_what_fit_or_preparation_adds_to_what_stays() -> None:
    """By hand: half a batch was rehearsed and grew by 10, so the fit takes 20 and Adam's two moments."""
    prepared = prepare(load_config(None, SMALL, {"data.path": str(shipped_path())}))
    moments = 2 * sum(parameter.nbytes for parameter in prepared.forecaster.parameters())
    preparation, rehearsal = MemoryGrowth(), MemoryGrowth()
    preparation.kept, preparation.peak, rehearsal.peak = 100 * MEGABYTE, 105 * MEGABYTE, 10 * MEGABYTE
    found = predict_process(prepared, 400 * MEGABYTE, preparation, rehearsal, share=0.5)
    assert found == ProcessMemory(400 * MEGABYTE, 100 * MEGABYTE, 20 * MEGABYTE + moments)
    preparation.peak = 200 * MEGABYTE
    assert predict_process(prepared, 400 * MEGABYTE, preparation, rehearsal, share=0.5).peak == 600 * MEGABYTE


def test_without_a_process_of_its_own_no_process_is_predicted() -> None:
    """A notebook has grown by other things too."""
    cost = measure_cost(prepare(load_config(None, SMALL, {"data.path": str(shipped_path())})))
    assert isinstance(cost.memory, MemoryEstimate)
    assert cost.memory.process is None


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_batch_too_large_to_try_lies_on_the_line_through_two_smaller_ones() -> None:
    """3 s for 8 windows and 5 s for 16: 64 take 17 s; what gets no slower stays."""
    line = extrapolate((8, Seconds(3.0, 6.0)), (16, Seconds(5.0, 5.0)), 64)
    assert line == Seconds(pytest.approx(17.0), pytest.approx(5.0))


def test_a_large_batch_is_not_tried_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step would take too long, a share is tried, and the time says so."""
    monkeypatch.setattr("training.fit_time._WHOLE_STEP_SECONDS", 0.0)
    prepared = prepare(load_config(None, [*SMALL, "fit.batch_size=128"], {"data.path": str(shipped_path())}))
    rehearsal = Rehearsal(prepared)
    time = rehearsal.measure()
    assert (rehearsal.size, rehearsal.share, time.is_measured) == (32, 0.25, False)


# --- disk ------------------------------------------------------------------------------------------------------------


def test_disk_is_what_the_run_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part beside the folder that a real run wrote; figures depend on what they show, the rest hardly."""
    monkeypatch.chdir(tmp_path)
    config = load_config(None, SMALL, {"data.path": str(shipped_path())})
    disk = measure_cost(prepare(config)).disk
    run = tmp_path / "run"
    pipeline.train(config, output=run)

    def size(*names: str) -> int:
        return sum(path.stat().st_size for name in names for path in (run / name).rglob("*") if path.is_file())

    assert disk.checkpoints == pytest.approx(size("checkpoints"), rel=0.1)
    assert disk.bundle == pytest.approx(size("bundle"), rel=0.2)
    assert disk.backtest + disk.reports == pytest.approx(size("backtest", "figures", "gradients"), rel=0.4)
    assert disk.run == pytest.approx(size("."), rel=0.25)
    assert (disk.map, disk.total) == (0, disk.run)
    assert (run / "checkpoints" / "previous.safetensors").exists()
