"""docker/backup_local.py: what is restored is what was backed up; a damaged archive changes nothing."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "backup_local.py"


def call(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A database in use, in SQLite's write-ahead mode, and an artifact."""
    folder = tmp_path / "mlruns"
    (folder / "artifacts" / "1").mkdir(parents=True)
    (folder / "artifacts" / "1" / "bundle.json").write_text("{}")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table runs (name text)")
        database.executemany("insert into runs values (?)", [(f"run {number}",) for number in range(100)])
        database.commit()
    return folder


def rows(store: Path) -> list[tuple[str]]:
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as database:
        return database.execute("select name from runs order by rowid").fetchall()


def test_what_is_restored_is_what_was_backed_up(store, tmp_path):
    """Also what stood only in the write-ahead file; what was not committed is left out, what came later is kept aside."""
    before = rows(store)
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as writer:
        writer.execute("insert into runs values ('committed')")
        writer.commit()
        writer.execute("insert into runs values ('under way')")
        made = call("backup", tmp_path / "one.tar", "--store", store)
        assert made.returncode == 0, made.stderr
    (store / "artifacts" / "1" / "bundle.json").write_text("overwritten")
    done = call("restore", tmp_path / "one.tar", "--store", store)
    assert done.returncode == 0, done.stderr
    assert rows(store) == [*before, ("committed",)]
    assert (store / "artifacts" / "1" / "bundle.json").read_text() == "{}"
    (aside,) = tmp_path.glob("mlruns.before-*")
    assert (aside / "artifacts" / "1" / "bundle.json").read_text() == "overwritten"
    assert (tmp_path / "one.tar").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "traversal"])
def test_a_damaged_archive_changes_nothing(damage, store, tmp_path):
    """Cut short, a bit changed, no backup at all, or with a way out of the folder: refused by name."""
    archive = tmp_path / "one.tar"
    call("backup", archive, "--store", store)
    content = bytearray(archive.read_bytes())
    if damage == "cut":
        archive.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[content.index(b"{}")] ^= 1
        archive.write_bytes(content)
    else:
        with tarfile.open(archive, "w") as tar:
            entry = tarfile.TarInfo("../outside" if damage == "traversal" else "notes.txt")
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
    before = rows(store)
    refused = call("restore", archive, "--store", store)
    assert refused.returncode == 1
    assert "must be a whole backup" in refused.stderr
    assert "Nothing was changed" in refused.stderr
    assert rows(store) == before
    assert not (tmp_path / "outside").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".mlruns")] == []


def test_nothing_is_overwritten_or_made_up(store, tmp_path):
    """An archive that is there stays; a folder without a database is named."""
    (tmp_path / "there.tar").write_text("mine")
    assert "is there already" in call("backup", tmp_path / "there.tar", "--store", store).stderr
    assert (tmp_path / "there.tar").read_text() == "mine"
    assert "must be a directory with mlflow.db" in call("backup", tmp_path / "x.tar", "--store", tmp_path).stderr
