"""Back up and restore the store of one machine without containers: MLflow's SQLite file and what lies beside it.

    python docker/backup_local.py backup [--store mlruns] [FILE.tar]
    python docker/backup_local.py restore FILE.tar [--store mlruns]

The database is copied by SQLite itself, so trainings and the service may go on meanwhile; it comes before the artifacts, so that
everything it names is in the archive. MLflow keeps artifacts under absolute paths: restore to the same place.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import time
from pathlib import Path

DATABASE, SUMS = "mlflow.db", "SHA256SUMS"
# SQLite's own files beside a database in use; the copy needs none.
_LIVE = (f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal")


def backup(store: Path, archive: Path) -> None:
    """Write an archive, all or nothing.

    Raises:
        SystemExit: If the store is none, or the archive is there already.
    """
    if not (store / DATABASE).is_file():
        sys.exit(f"{store} must be a directory with {DATABASE}, but has none instead. Name it with --store.")
    if archive.exists():
        sys.exit(f"{archive} must be a new file, but is there already instead.")
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(archive.name + ".partial")
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        copy = Path(folder) / DATABASE
        with contextlib.closing(sqlite3.connect(store / DATABASE)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        sums = {DATABASE: _hash(copy)}
        with tarfile.open(partial, "w") as tar:
            tar.add(copy, DATABASE)
            for path in sorted(path for path in store.rglob("*") if path.is_file() and path.name not in (DATABASE, *_LIVE)):
                name = path.relative_to(store).as_posix()
                with contextlib.suppress(FileNotFoundError):  # a training has just replaced it
                    sums[name] = _hash(path)
                    tar.add(path, name)
            listing = Path(folder) / SUMS
            listing.write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")
            tar.add(listing, SUMS)
    partial.chmod(0o600)
    partial.replace(archive)


def restore(archive: Path, store: Path) -> None:
    """Put an archive in the place of a store, which is kept beside it under another name.

    Raises:
        SystemExit: If the archive is damaged; then nothing is changed.
    """
    staging = Path(tempfile.mkdtemp(prefix=f".{store.name}-", dir=store.parent))
    try:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(staging, filter="data")
            wrong = [name for name, digest in _read_sums(staging / SUMS).items() if _hash(staging / name) != digest]
        except (OSError, tarfile.TarError, ValueError) as error:
            sys.exit(f"{archive} must be a whole backup, but is damaged instead ({error}). Nothing was changed.")
        if wrong:
            sys.exit(f"{archive} must be a whole backup, but {wrong[0]} is damaged instead. Nothing was changed.")
        (staging / SUMS).unlink()
        staging.chmod(0o755)
        if store.exists():
            store.rename(store.with_name(f"{store.name}.before-{time.strftime('%Y%m%dT%H%M%S')}"))
        staging.rename(store)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_sums(path: Path) -> dict[str, str]:
    lines = [line.partition("  ") for line in path.read_text(encoding="utf-8").splitlines()]
    if DATABASE not in {name for _, _, name in lines}:
        raise ValueError("without a database")
    return {name: digest for digest, _, name in lines}


def main() -> None:
    """Back up or restore."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("backup", "restore"))
    parser.add_argument("archive", nargs="?", type=Path, help="default of backup: backups/TIME.tar")
    parser.add_argument("--store", type=Path, default=Path("mlruns"), help="directory of mlflow.db and the artifacts")
    options = parser.parse_args()
    if options.action == "backup":
        archive = options.archive or Path("backups") / f"{time.strftime('%Y%m%dT%H%M%S')}.tar"
        backup(options.store.resolve(), archive.resolve())
        print(archive)
    elif options.archive is None:
        parser.error("restore needs the archive")
    else:
        restore(options.archive.resolve(), options.store.resolve())
        print(f"restored {options.store}")


if __name__ == "__main__":
    main()
