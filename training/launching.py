"""How the processes of a team find each other: started here on one machine, or by torchrun on one or many.

A process started here gets the same environment variables that torchrun gives, and the same command.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # documented, not in __all__

from training.errors import ConfigurationError, Problem, WorkerLostError
from training.exchange import LOST
from training.following import releasing
from training.shared_exchange import Segment, SharedExchange
from training.team import ALONE, ProcessTeam, Team

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
FOLLOW = ("-P", "-m", "training", "train", "--launcher", "torchrun")  # -P: a folder `training` here is not meant
# A lost process closes its connection and is noticed at once; this is for a network that went silent. The leader may
# prepare or judge for long while the others wait.
SILENCE = timedelta(hours=6)
END_SECONDS, LOST_SECONDS = 10.0, 2.0
POLL_SECONDS = 0.02
# The inherited descriptor of a team's shared memory; torchrun sets none.
MEMORY = "GRADCAST_TEAM_MEMORY"


@contextmanager
def open_team(size: int) -> Iterator[Team]:
    """Start `size - 1` processes on this machine, which follow this one; they end with it.

    Args:
        size: Processes, this one included.

    Yields:
        The team, led by this process; alone if `size` is 1.

    Raises:
        WorkerLostError: If one of them ends early.
    """
    if size == 1:
        yield ALONE
        return
    store = TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE
    with _shared_memory(size) as segment:
        processes = [_start(rank, size, store.port, segment) for rank in range(1, size)]
        try:
            _wait_for_all(store, processes)
            with _joined(store, 0, size, segment) as team:
                yield team
        except WorkerLostError:
            raise _told(processes) from None
        finally:
            _end(processes)


@contextmanager
def join_team() -> Iterator[Team]:
    """Join the processes that torchrun, or `open_team`, started.

    Raises:
        ConfigurationError: If nobody did.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if missing:
        message = f"must be started by torchrun, but {', '.join(missing)} is not set."
        remedy = "torchrun --nproc-per-node 2 -m training train --launcher torchrun ..."
        raise ConfigurationError([Problem("config_conflict", "--launcher", message, remedy)])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=is_host, wait_for_workers=False)
    descriptor = os.environ.pop(MEMORY, None)
    segment = None if descriptor is None else Segment(int(descriptor), size)
    with _joined(store, rank, size, segment) as team:
        yield team


@contextmanager
def _shared_memory(size: int) -> Iterator[Segment | None]:
    """Memory for the gradients of a team on this machine; none, and said aloud, where the system has none."""
    try:
        segment = Segment.create(size)
    except OSError as error:
        logger.warning("no shared memory between the workers (%s): gradients go through sockets", error)
        yield None
        return
    try:
        yield segment
    finally:
        segment.close()


@contextmanager
def _joined(store: Store, rank: int, size: int, segment: Segment | None) -> Iterator[Team]:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    threads = torch.get_num_threads()
    # Processes beat threads; several of both wait for each other. fit.num_threads, if set, has the last word.
    torch.set_num_threads(1)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    # Before the processes are connected: then each finds the numbers of all others in the memory.
    exchange = None if segment is None else SharedExchange(segment, rank)
    store.set(f"joined/{rank}", "")
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpu else "gloo", rank=rank, world_size=size, timeout=SILENCE,
        store=PrefixStore(f"gradcast/{attempt}", store),
    )  # fmt: skip
    team = ProcessTeam(rank, size, exchange)
    try:
        with releasing(team):
            yield team
    finally:
        team.close()
        distributed.destroy_process_group()
        torch.set_num_threads(threads)


def _start(rank: int, size: int, port: int, segment: Segment | None) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    environment |= _place(rank, size, port)
    inherited = [] if segment is None else [segment.descriptor]
    environment |= {MEMORY: str(segment.descriptor)} if segment else {}
    command, nothing = [sys.executable, *FOLLOW], subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdin=nothing, stdout=nothing, pass_fds=inherited)  # noqa: S603  our own command


def _place(rank: int, size: int, port: int) -> Mapping[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
        "MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    }  # fmt: skip


def _wait_for_all(store: Store, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    names = [f"joined/{rank}" for rank in range(1, len(processes) + 1)]
    while not store.check(names):
        if any(process.poll() is not None for process in processes):
            raise WorkerLostError(*LOST)
        time.sleep(POLL_SECONDS)


def _told(processes: Sequence[subprocess.Popen[bytes]]) -> WorkerLostError:
    """The error with the worker that ended, and how."""
    where, contract, actual, remedy = LOST
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        for rank, process in enumerate(processes, start=1):
            code = process.poll()
            if code is not None:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                return WorkerLostError(where, contract, f"without worker {rank} (process {process.pid}, ended by {how})", remedy)
        time.sleep(POLL_SECONDS)
    return WorkerLostError(where, contract, actual, remedy)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait a moment for those that were released or lost their leader to put their places in order; kill the others."""
    deadline = time.monotonic() + (LOST_SECONDS if sys.exc_info()[0] else END_SECONDS)
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
