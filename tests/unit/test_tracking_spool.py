"""The spool: what it promises about killed processes, torn lines and two processes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.tracking.spool import Spool, list_spools


def open_spool(directory: Path) -> Spool:
    spool = Spool(directory)
    assert spool.try_lock()
    spool.open_for_append()
    return spool


def test_events_come_back_in_order_with_their_own_times(tmp_path: Path) -> None:
    """What is appended is read back in order, with the time of recording and offsets that meet."""
    spool = open_spool(tmp_path / "run")
    for step in range(3):
        spool.append("metrics", {"step": step, "metrics": {"a": step / 7}}, time_ms=1000 + step)
    events = list(spool.read(0))
    assert [(event.kind, event.time_ms, event.payload["step"]) for event in events] == [
        ("metrics", 1000, 0), ("metrics", 1001, 1), ("metrics", 1002, 2),
    ]  # fmt: skip
    assert [event.payload["metrics"]["a"] for event in events] == [0.0, 1 / 7, 2 / 7]
    assert [event.start for event in events][1:] == [event.end for event in events][:-1]
    assert [event.payload["step"] for event in spool.read(events[0].end)] == [1, 2]


def test_torn_last_line_is_not_an_event(tmp_path: Path) -> None:
    """A line without its end, left by a killed process, is neither read nor counted."""
    spool = open_spool(tmp_path / "run")
    spool.append("note", {"markdown": "whole"})
    with (tmp_path / "run" / "events.jsonl").open("ab") as stream:
        stream.write(b'{"event":"note","time":1,"markdo')
    assert [event.payload["markdown"] for event in spool.read(0)] == ["whole"]
    assert spool.count_events() == 1


def test_resumed_spool_writes_over_the_torn_line(tmp_path: Path) -> None:
    """A continued run does not glue its first event to the half line of its predecessor."""
    spool = open_spool(tmp_path / "run")
    spool.append("note", {"markdown": "before"})
    spool.close()
    with (tmp_path / "run" / "events.jsonl").open("ab") as stream:
        stream.write(b'{"event":"no')
    resumed = open_spool(tmp_path / "run")
    assert resumed.num_appended == 1
    resumed.append("note", {"markdown": "after"})
    assert [event.payload["markdown"] for event in resumed.read(0)] == ["before", "after"]


def test_damaged_line_in_the_middle_does_not_hide_the_rest(tmp_path: Path) -> None:
    """A line that is no JSON becomes one damaged event; those behind it are still read."""
    spool = open_spool(tmp_path / "run")
    spool.append("note", {"markdown": "1"})
    with (tmp_path / "run" / "events.jsonl").open("ab") as stream:
        stream.write(b"\x00\xff garbage\n[1]\n")
    spool.append("note", {"markdown": "2"})
    assert [event.kind for event in spool.read(0)] == ["note", "damaged", "damaged", "note"]


def test_progress_survives_the_process(tmp_path: Path) -> None:
    """What was acknowledged is known to the next process that opens the spool."""
    spool = open_spool(tmp_path / "run")
    spool.append("note", {"markdown": "1"})
    spool.acknowledge(offset=10, num_events=1, run_id="abc", resume_steps={"loss/train": 7})
    spool.close()
    progress = Spool(tmp_path / "run").progress
    assert (progress.offset, progress.num_events, progress.run_id) == (10, 1, "abc")
    assert progress.resume_steps == {"loss/train": 7}


def test_damaged_progress_means_sending_again(tmp_path: Path) -> None:
    """An unreadable acknowledgement is none: deliveries are repeatable, so the beginning is always safe."""
    spool = open_spool(tmp_path / "run")
    spool.acknowledge(offset=10, num_events=1)
    (tmp_path / "run" / "progress.json").write_bytes(b'{"offset": 1')
    assert Spool(tmp_path / "run").progress.offset == 0


def test_lock_is_exclusive_and_ends_with_its_process(tmp_path: Path) -> None:
    """While a process holds a spool nobody else gets it; after `kill -9` it is free, without any clean-up."""
    program = (
        "import sys; from pathlib import Path; from training.tracking.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1])); print(spool.try_lock(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    assert not Spool(tmp_path / "run").try_lock()
    holder.kill()
    holder.communicate()
    assert Spool(tmp_path / "run").try_lock()


def test_stored_file_outlives_its_source(tmp_path: Path) -> None:
    """An artifact is copied when it is recorded: the caller may change or delete it at once."""
    spool = open_spool(tmp_path / "run")
    source = tmp_path / "bundle"
    source.mkdir()
    (source / "a.json").write_text("first")
    relative = spool.store(source, "bundle")
    (source / "a.json").write_text("changed")
    assert (spool.stored_path(relative) / "a.json").read_text() == "first"
    spool.discard(relative)
    assert not spool.stored_path(relative).exists()


def test_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk takes only part of an event, the part is taken back and the next event is intact."""
    from training.tracking import spool as module

    spool = open_spool(tmp_path / "run")
    real_write = module.os.write
    monkeypatch.setattr(module.os, "write", lambda descriptor, line: real_write(descriptor, line[:5]))
    with pytest.raises(OSError, match="took 5 of"):
        spool.append("note", {"markdown": "lost"})
    monkeypatch.setattr(module.os, "write", real_write)
    spool.append("note", {"markdown": "kept"})
    assert [event.payload["markdown"] for event in spool.read(0)] == ["kept"]
    assert spool.num_appended == 1


def test_only_spools_are_listed(tmp_path: Path) -> None:
    """A stray file or directory beside the spools is not taken for one."""
    open_spool(tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    assert [path.name for path in list_spools(tmp_path)] == ["run"]
    assert list_spools(tmp_path / "absent") == []
