"""The Ray cluster: the one that RAY_ADDRESS names, or one of this machine that ends with the command."""

from __future__ import annotations

import logging
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from training.errors import ClusterError
from training.on_ray.environment import ADDRESS, cluster_address

# Ray takes 30 % of the memory for objects otherwise; nothing but messages goes through it here.
OBJECT_BYTES = 96 * 2**20
# Paths of Ray's sockets must be shorter than 108 bytes, which the temporary directory of macOS is not.
SHORT_FOLDER = "/tmp" if sys.platform == "darwin" else None  # noqa: S108  a directory of a random name is made in it
# Ray gives its own processes half a minute to start, which a busy machine may take for its imports; what is left of the first
# attempt ends with the command.
START_ATTEMPTS = 2
REACH_SECONDS = 10.0


@contextmanager
def connected(num_processors: int) -> Iterator[Path]:
    """Be connected to a cluster.

    Args:
        num_processors: What a cluster that is started here offers, whatever the machine has.

    Yields:
        A temporary directory of this machine.

    Raises:
        ClusterError: If it cannot be reached or started.
    """
    place = Path(tempfile.mkdtemp(prefix="gradcast-ray-", dir=SHORT_FOLDER))
    try:
        address = cluster_address()
        if address is not None:
            _connect(address)
        else:
            _start(num_processors, place)
        logging.getLogger("ray").setLevel(logging.ERROR)
        yield place
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def _start(num_processors: int, place: Path) -> None:
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _init(
                address="local", num_cpus=num_processors, include_dashboard=False, object_store_memory=OBJECT_BYTES,
                _temp_dir=str(place / str(attempt)),
            )  # fmt: skip
        except _RefusedError as refused:
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise ClusterError("Ray", "able to start", f"not ({refused})", "Try --launcher local.") from None
        else:
            return


def _connect(address: str) -> None:
    remedy = "Start it, give its token (RAY_AUTH_MODE=token), or leave the variable out: one is started here."
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "/" not in address:  # Ray itself would ask for minutes
            socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
        _init(address=address)
    except (OSError, _RefusedError) as error:
        raise ClusterError(ADDRESS, "the address of a Ray cluster", f"{address} ({error})", remedy) from None


class _RefusedError(Exception):
    """What Ray said, in a line."""


def _init(**settings: Any) -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:  # noqa: BLE001  Ray raises plain ones too
        raise _RefusedError((str(error).strip() or type(error).__name__).splitlines()[0]) from None
