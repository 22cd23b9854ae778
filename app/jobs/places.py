"""Room on this machine: so many trainings at once over all its workers, and a card for each where there are cards.

A place is a lock. The training inherits it, so that it is free again exactly when worker and training are gone, however
they went.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.jobs.gpus import VISIBLE
from training.file_lock import take_lock


@dataclass
class Place:
    """Room for one training.

    Attributes:
        descriptors: Locks to hold while it lives.
        environment: What the training is told of it.
    """

    descriptors: list[int]
    environment: Mapping[str, str] = field(default_factory=dict)

    def release(self) -> None:
        """Let go; a training that still lives holds on to it."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Places:
    """The places of this machine.

    Args:
        root: Directory of the jobs, which all workers share. Its locks of room bear the machine's name, those of cards their own.
        num_jobs: Trainings at once on this machine.
        gpus: Cards to give, each to one training at a time.
    """

    def __init__(self, root: Path, num_jobs: int, gpus: Sequence[str] = ()) -> None:
        self._directory = root / "places"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._rooms = [f"{safe_name(socket.gethostname())}.{number}" for number in range(num_jobs)]
        self._gpus = tuple(gpus)

    def take(self, wants_gpu: bool = True) -> Place | None:
        """A place, with a card if there are cards and the training wants one; None if there is none now."""
        room = self._take_one(self._rooms)
        if room is None:
            return None
        place = Place([room[1]])
        if not self._gpus:
            return place
        if not wants_gpu:
            return Place(place.descriptors, {VISIBLE: ""})
        card = self._take_one(self._gpus)
        if card is None:
            place.release()
            return None
        return Place([*place.descriptors, card[1]], {VISIBLE: card[0]})

    def _take_one(self, names: Sequence[str]) -> tuple[str, int] | None:
        for name in names:
            descriptor = take_lock(self._directory / safe_name(name))
            if descriptor is not None:
                return name, descriptor
        return None


def safe_name(name: str) -> str:
    """A name as that of a file; the UUID of a divided card may hold slashes."""
    return re.sub(r"[^\w.-]", "_", name)
