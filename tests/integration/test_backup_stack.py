"""docker/backup and docker/restore on a real PostgreSQL; only `docker compose` is a stand-in that runs its commands here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.faults.postgres import Postgres, running_postgres

DOCKER = Path(__file__).resolve().parents[2] / "docker"
# Called as `docker compose` is: notes what it was asked, and runs what exec and run would run, in the folders of the volumes.
STAND_IN = """
import os, subprocess, sys
words, folder = sys.argv[2:], sys.argv[1]
with open(folder + "/asked.txt", "a") as log:
    log.write(" ".join(words[:3]) + "\\n")
if words[0] in ("exec", "run"):
    services = ("db", "mlflow", "api", "bucket")
    at = next(number for number, word in enumerate(words) if word in services)
    entry = [words[words.index("--entrypoint") + 1]] if "--entrypoint" in words else []
    paths = {"/var/lib/mlflow": folder + "/mlflow", "/var/lib/gradcast": folder + "/gradcast",
             "/var/lib/objects": folder + "/objects"}
    command = [*entry, *words[at + 1:]]
    for inside, outside in paths.items():
        command = [word.replace(inside, outside) for word in command]
    sys.exit(subprocess.run(command).returncode)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[tuple[Postgres, Path, dict[str, str]]]:
    """A server with a table, artifacts and keys, and the environment in which the scripts reach them."""
    with running_postgres("mlflow") as server:
        run_sql(server, "create table runs (name text primary key)")
        run_sql(server, "insert into runs select 'run ' || n from generate_series(1, 1000) n")
        for name, content in (("mlflow/artifacts/1/bundle.json", "{}"), ("gradcast/keys/keys.json", "[]")):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text(content)
        (tmp_path / "compose.py").write_text(STAND_IN)
        path = f"{server.binaries}:{os.environ['PATH']}"
        compose = f"{sys.executable} {tmp_path / 'compose.py'} {tmp_path}"
        yield server, tmp_path, {"PATH": path, "COMPOSE": compose, "PGHOST": "127.0.0.1", "PGPORT": str(server.port)}


def run_sql(server: Postgres, text: str) -> list[tuple[str]]:
    connection = psycopg2.connect(server.uri("mlflow", "postgresql"))
    with connection, connection.cursor() as cursor:
        cursor.execute(text)
        found = cursor.fetchall() if cursor.description else []
    connection.close()
    return found


def call(script: str, environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    command = [DOCKER / script, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_stack_comes_back_as_it_was(stack):
    """Rows deleted and added, artifacts and keys that changed: all as at the backup; the service stops and starts again."""
    server, folder, environment = stack
    made = call("backup", environment, folder / "backup")
    assert made.returncode == 0, made.stderr
    assert (folder / "backup").stat().st_mode & 0o077 == 0
    before = run_sql(server, "select name from runs order by name")
    run_sql(server, "delete from runs where name like 'run 1%'; insert into runs values ('later')")
    (folder / "mlflow/artifacts/1/bundle.json").write_text("changed")
    (folder / "mlflow/artifacts/2").write_text("later")
    (folder / "gradcast/keys/keys.json").unlink()
    done = call("restore", environment, folder / "backup")
    assert done.returncode == 0, done.stderr
    assert run_sql(server, "select name from runs order by name") == before
    assert (folder / "mlflow/artifacts/1/bundle.json").read_text() == "{}"
    assert not (folder / "mlflow/artifacts/2").exists()
    assert (folder / "gradcast/keys/keys.json").read_text() == "[]"
    asked = (folder / "asked.txt").read_text().splitlines()
    assert asked.index("stop api worker") < asked.index("exec -T db", asked.index("stop api worker")) < len(asked) - 1
    assert asked[-1] == "up --detach --wait"


def test_a_bucket_comes_back_with_what_is_known_of_its_objects(stack):
    """The volume of the store is in the backup if artifacts are in it, extended attributes included, and else not asked for."""
    _, folder, environment = stack
    held = folder / "objects/mlflow/1/bundle.json"
    held.parent.mkdir(parents=True)
    held.write_text("{}")
    os.setxattr(held, "user.etag", b"1234")
    assert call("backup", environment, folder / "without").returncode == 0
    assert not (folder / "without/objects.tar.gz").exists()
    environment["ARTIFACTS_DESTINATION"] = "s3://mlflow"
    made = call("backup", environment, folder / "backup")
    assert made.returncode == 0, made.stderr
    held.unlink()
    (folder / "objects/mlflow/later").write_text("later")
    done = call("restore", environment, folder / "backup")
    assert done.returncode == 0, done.stderr
    assert (held.read_text(), os.getxattr(held, "user.etag")) == ("{}", b"1234")
    assert not (folder / "objects/mlflow/later").exists()


def test_a_damaged_backup_changes_nothing(stack):
    """One byte of the dump is enough: refused by its hash, before anything stops."""
    server, folder, environment = stack
    assert call("backup", environment, folder / "backup").returncode == 0
    dump = folder / "backup" / "database.dump"
    dump.write_bytes(dump.read_bytes()[:-1] + b"x")
    (folder / "asked.txt").unlink()
    refused = call("restore", environment, folder / "backup")
    assert refused.returncode == 2
    assert "Nothing was changed" in refused.stderr
    assert not (folder / "asked.txt").exists()
    assert run_sql(server, "select count(*) from runs") == [(1000,)]


def test_a_backup_that_fails_leaves_nothing_half(stack):
    """With the database away there is no directory that looks like a backup, and one that is there is never overwritten."""
    _, folder, environment = stack
    failed = call("backup", environment | {"PGPORT": "1"}, folder / "backup")
    assert failed.returncode != 0
    assert not list(folder.glob("backup*"))
    assert call("backup", environment, folder / "mlflow").returncode == 2
