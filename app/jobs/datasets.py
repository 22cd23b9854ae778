"""Uploaded data sets on disk, one directory per content.

<id>/content/<name>   the file; the id is its hash
<id>/record.json      name, columns, audit
<id>/preview.json     the end of the first series
.incoming-<random>/   an upload that is being received or inspected
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
from pydantic import ValidationError

from app.errors import ProblemError
from app.jobs.files import safe_file_name, write_whole
from app.jobs.subprocesses import PYTHON, Limits, run_limited
from app.schemas.datasets import DatasetBody, DatasetPreview, UploadOptions

ID_LENGTH = 32
_ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
WRITE_BYTES = 1 << 20
ABANDONED_SECONDS = 3600.0
MAX_CONCURRENT_UPLOADS = 4


class DatasetStore:
    """Receives, audits, lists and removes data sets.

    Args:
        directory: Where they are; made when the first one comes.
        max_bytes: Largest file.
        max_total_bytes: All files together.
        limits: What the audit of one file may use.
    """

    def __init__(self, directory: Path, max_bytes: int, max_total_bytes: int, limits: Limits) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._limits = limits
        self._num_receiving = 0

    async def receive(self, chunks: AsyncIterator[bytes], options: UploadOptions) -> tuple[DatasetBody, bool]:
        """Write an upload to disk as it comes, audit it, and keep it if a job could train on it.

        Args:
            chunks: The file.
            options: Its name and columns.

        Returns:
            The data set, and whether it is new.

        Raises:
            ProblemError: `body_too_large`, `storage_full`, `queue_full` or `dataset_invalid`.
        """
        if self._num_receiving >= MAX_CONCURRENT_UPLOADS:
            raise ProblemError("queue_full", "Too many uploads at once.", headers={"Retry-After": "5"})
        self._num_receiving += 1
        incoming = self._directory / f".incoming-{secrets.token_hex(8)}"
        try:
            name = safe_file_name(options.name)
            content = incoming / "content" / name
            await anyio.to_thread.run_sync(self._prepare, content.parent)
            digest, num_bytes = await self._write(chunks, content)
            return await anyio.to_thread.run_sync(self._keep, incoming, content, digest, num_bytes, options)
        finally:
            self._num_receiving -= 1
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(incoming, ignore_errors=True))

    def list_datasets(self) -> list[DatasetBody]:
        """Every data set, the newest first."""
        if not self._directory.is_dir():
            return []
        found = [self._read(entry) for entry in self._directory.iterdir() if _ID.fullmatch(entry.name)]
        return sorted(filter(None, found), key=lambda body: body.uploaded_at, reverse=True)

    def find(self, dataset_id: str) -> DatasetBody:
        """One data set.

        Raises:
            ProblemError: `dataset_not_found`.
        """
        body = self._read(self._directory / dataset_id) if _ID.fullmatch(dataset_id) else None
        if body is None:
            raise ProblemError("dataset_not_found", "No data set has this id. See GET /datasets.")
        return body

    def preview(self, dataset_id: str) -> DatasetPreview:
        """The end of its first series.

        Raises:
            ProblemError: `dataset_not_found`.
        """
        self.find(dataset_id)
        return DatasetPreview.model_validate_json((self._directory / dataset_id / "preview.json").read_bytes())

    def content_path(self, dataset_id: str) -> Path:
        """The file itself.

        Raises:
            ProblemError: `dataset_not_found`.
        """
        self.find(dataset_id)
        return next((self._directory / dataset_id / "content").iterdir()).resolve()

    def remove(self, dataset_id: str) -> None:
        """Delete a data set; whether a job needs it is for the caller to know.

        Raises:
            ProblemError: `dataset_not_found`.
        """
        self.find(dataset_id)
        doomed = self._directory / f".removed-{secrets.token_hex(8)}"
        (self._directory / dataset_id).replace(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _prepare(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        for entry in self._directory.glob(".*"):  # what a killed service left behind
            with contextlib.suppress(OSError):
                if time.time() - entry.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)

    async def _write(self, chunks: AsyncIterator[bytes], path: Path) -> tuple[str, int]:
        """Content to disk, a mebibyte at a time, so that neither memory nor the event loop feels it."""
        room = self._max_total_bytes - sum(body.num_bytes for body in await anyio.to_thread.run_sync(self.list_datasets))
        digest, num_bytes, buffer = hashlib.sha256(), 0, bytearray()
        with await anyio.to_thread.run_sync(lambda: path.open("wb")) as stream:

            def flush() -> None:
                digest.update(buffer)
                stream.write(buffer)
                buffer.clear()

            async for chunk in chunks:
                num_bytes += len(chunk)
                if num_bytes > self._max_bytes:
                    raise _too_large(self._max_bytes)
                if num_bytes > room:
                    detail = "There is no room for this file. Remove data sets: DELETE /datasets/{id}."
                    raise ProblemError("storage_full", detail, headers={"Connection": "close"})
                buffer += chunk
                if len(buffer) >= WRITE_BYTES:
                    await anyio.to_thread.run_sync(flush)
            await anyio.to_thread.run_sync(flush)
        return digest.hexdigest()[:ID_LENGTH], num_bytes

    def _keep(
        self, incoming: Path, content: Path, digest: str, num_bytes: int, options: UploadOptions
    ) -> tuple[DatasetBody, bool]:
        known = self._read(self._directory / digest)
        if known is not None and options.columns().items() <= known.columns.items():
            return known, False
        found = self._inspect(incoming, content, options)
        if not found["is_usable"]:
            detail = "Nothing can be trained on this file as it stands; `audit` says what to correct, and where."
            audit = {key: found[key] for key in ("summary", "counts", "problems")}
            raise ProblemError("dataset_invalid", detail, extensions={"audit": audit})
        preview = found.pop("preview")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        body = DatasetBody.model_validate(
            {**found, "id": digest, "name": content.name, "num_bytes": num_bytes, "uploaded_at": now}
        )
        if known is not None:  # the same content, read with other columns from now on
            incoming = self._directory / digest
        write_whole(incoming / "preview.json", json.dumps(preview))
        write_whole(incoming / "record.json", body.model_dump_json(indent=1))
        if known is None:
            with contextlib.suppress(OSError):  # another upload of the same content was faster
                incoming.rename(self._directory / digest)
        return body, known is None

    def _inspect(self, incoming: Path, content: Path, options: UploadOptions) -> dict[str, Any]:
        columns, output, log = (incoming / name for name in ("columns.json", "inspection.json", "inspection.log"))
        columns.write_text(json.dumps(options.columns()), encoding="utf-8")
        words = (content, columns, output, self._limits.memory_bytes)
        command = [*PYTHON, "-m", "app.jobs.inspection", *map(str, words)]
        with log.open("wb") as errors:
            ended = run_limited(command, self._limits, subprocess.DEVNULL, errors)
        if ended.reason != "exit":
            what = "time" if ended.reason == "time" else "memory"
            detail = f"The audit of this file took more {what} than the service allows. Bring fewer rows."
            raise ProblemError("dataset_invalid", detail)
        if ended.exit_code < 0:  # a file that brings down the library that reads it
            raise ProblemError("dataset_invalid", "This file cannot be read. Save the table as CSV or parquet.")
        if ended.exit_code != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise RuntimeError(f"the audit ended with exit code {ended.exit_code}: {lines[-1:]}")
        for spent in (columns, log):
            spent.unlink()
        found: dict[str, Any] = json.loads(output.read_bytes())
        output.unlink()
        return found

    @staticmethod
    def _read(directory: Path) -> DatasetBody | None:
        try:
            return DatasetBody.model_validate_json((directory / "record.json").read_bytes())
        except (OSError, ValidationError):  # absent, or being removed
            return None


def _too_large(limit: int) -> ProblemError:
    # The rest of the body is not read, so the connection cannot be used again.
    detail = f"A data set must be at most {limit} bytes. Compress it (csv.gz, parquet), or bring fewer rows."
    return ProblemError("body_too_large", detail, headers={"Connection": "close"})
