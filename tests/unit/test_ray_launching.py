"""What a Ray cluster may be wrong with is said; nothing of it needs a cluster."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from training import extras
from training.cli import main
from training.errors import ClusterError, WorkerLostError
from training.on_ray.cluster import connected
from training.on_ray.desk import Assignment, Desk, Message
from training.on_ray.launch import MAX_LOSSES, ToldError, _Conversation, _marked
from training.on_ray.worker import MARK, _lead, _settle
from training.progress import SILENT_PROGRESS
from training.reporting import gradcast_version
from training.run_directory import RunDirectory
from training.team import ALONE


def assignment(folder: Path, **changes: Any) -> Assignment:
    known = {"config": {}, "directory": str(folder / "run"), "mark": "m", "folder": str(folder), "environment": {},
             "new_tracker": lambda _config: None, "version": gradcast_version()}  # fmt: skip
    return Assignment(**(known | changes))


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Exit code 2, before anything is written."""
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    assert main(["train", "--data", "any.csv", "--launcher", "ray"]) == 2
    assert "pip install 'gradcast[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--min-workers", "2"), "--min-workers: must be given with --launcher ray, but is with local instead."),
        (("--launcher", "ray", "--workers", "2", "--min-workers", "3"), "must be at most --workers, but is 3 for 2 instead."),
    ],
)
def test_fewest_workers_are_a_matter_of_ray(words: tuple[str, ...], sentence: str, capsys: Any) -> None:
    """The other launchers have a fixed number."""
    assert main(["train", "--data", "any.csv", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_an_address_where_nobody_listens_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would go on asking for minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(ClusterError, match="RAY_ADDRESS must be the address of a Ray cluster, but is 127"), connected(1):
        pass


def test_a_machine_that_does_not_see_the_run_directory_is_named(tmp_path: Path) -> None:
    """A directory of the same name is not the same directory."""
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(ClusterError, match=r"seen by every machine of the Ray cluster, but is .* on "):
        _lead(assignment(tmp_path), ALONE, desk=None)
    with _marked(run) as mark:
        assert (run.path / MARK).read_text() == mark
        with pytest.raises(ClusterError, match="another directory of that name"):
            _lead(assignment(tmp_path, mark="other"), ALONE, desk=None)
    assert not run.path.exists()


def test_machines_with_another_version_are_refused(tmp_path: Path) -> None:
    """Before they take a step."""
    with pytest.raises(ClusterError, match=r"gradcast must be 0\.0\.0, but is .* Install the same version"):
        _settle(assignment(tmp_path, version="0.0.0"))


def test_teams_lost_without_a_new_checkpoint_end_the_fit() -> None:
    """A checkpoint in between starts the count anew."""
    said: list[str] = []
    conversation = _Conversation(SILENT_PROGRESS, said.append)
    for _ in range(2):
        for _ in range(MAX_LOSSES):
            conversation.answer(Message("lost", ([1], "ActorDiedError: killed")))
        conversation.answer(Message("check", (10, {})))
    assert said == ["worker 1 lost; a new team goes on from the last checkpoint"] * (2 * MAX_LOSSES)
    for _ in range(MAX_LOSSES):
        conversation.answer(Message("lost", ([1], "ActorDiedError: killed")))
    with pytest.raises(WorkerLostError, match=r"4 times in a row, last worker 1 \(ActorDiedError: killed\)"):
        conversation.answer(Message("lost", ([1], "ActorDiedError: killed")))


def test_an_error_of_a_worker_keeps_code_and_words() -> None:
    """So that the exit code is the one of a fit in one process."""
    with pytest.raises(ToldError, match=r"^column y: bad\.$") as caught:
        _Conversation(SILENT_PROGRESS, print).answer(Message("failed", ("data_invalid", "column y: bad.")))
    assert caught.value.code == "data_invalid"


def test_the_first_end_counts_and_later_teams_find_nothing_to_do(tmp_path: Path) -> None:
    """What dying workers say after it is not heard."""

    async def talk() -> list[Message]:
        desk = Desk(assignment(tmp_path))
        assert await desk.hear(0.001) == []
        assert await desk.assignment() is not None
        await desk.tell("say", "one")
        await desk.tell("stopped", None)
        await desk.tell("failed", "bug", "too late")
        assert await desk.assignment() is None
        assert await desk.is_over()
        return await desk.hear(1.0)

    assert asyncio.run(talk()) == [Message("say", ("one",)), Message("stopped", (None,))]
