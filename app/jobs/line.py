"""Whose turn it is: among the jobs that wait, the oldest of the user with the fewest running ones.

Of several such users, that one's whose last turn is the longest ago: with one place at a time nobody has any running when it
becomes free, and by age alone a hundred jobs of one user would still come before another's one. With a single user the line
is first come, first served.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from app.jobs.files import write_whole
from app.jobs.job_directory import JobDirectory

SERVED = "served.json"
Entry = TypeVar("Entry", bound=Hashable)


@dataclass(frozen=True)
class Line:
    """The jobs that have not ended, at one moment.

    Attributes:
        waiting: Those that nobody is at, in the order in which their turn comes.
        users: Who asked for each of them.
        running: How many jobs of each user a live process is at.
    """

    waiting: tuple[JobDirectory, ...]
    users: Mapping[JobDirectory, str]
    running: Mapping[str, int]

    def startable(self, per_user: int | None) -> list[JobDirectory]:
        """Those of users who are below their bound, in order."""
        return [job for job in self.waiting if per_user is None or self.running.get(self.users[job], 0) < per_user]

    def place(self, job: JobDirectory) -> int | None:
        """How many turns until it is this job's, which is 1 for the next one; None if it does not wait."""
        return self.waiting.index(job) + 1 if job in self.users else None


def line_up(open_jobs: Iterable[JobDirectory], served: Mapping[str, int]) -> Line:
    """Look who runs, and put the others in order.

    Args:
        open_jobs: Those that have not ended.
        served: From `read_served`.
    """
    specs = {job: job.spec for job in open_jobs}
    held = {job for job in specs if job.is_locked}
    running = Counter(specs[job].user for job in held)
    # A job that was resumed, or whose worker died, keeps its age.
    waiting = sorted((job for job in specs if job not in held), key=lambda job: (specs[job].created_at, job.path.name))
    users = {job: specs[job].user for job in waiting}
    return Line(tuple(order_fairly([(job, users[job]) for job in waiting], running, served)), users, running)


def order_fairly(
    waiting: Sequence[tuple[Entry, str]], running: Mapping[str, int], served: Mapping[str, int]
) -> list[Entry]:
    """Put jobs in the order in which they would start if none of the running ones ended before.

    Args:
        waiting: Jobs with their users, the longest waiting first.
        running: Running jobs by user.
        served: Number of each user's last turn; who never had one comes before who had.

    Returns:
        The jobs; each is the longest waiting one of the user who then has the fewest running, of several such users of the
        one whose last turn is the longest ago, and of several who never had one of the one whose job has waited longest.
    """
    positions: dict[str, list[int]] = {}
    for position, (_, user) in enumerate(waiting):
        positions.setdefault(user, []).append(position)
    heap = [(running.get(user, 0), served.get(user, 0), own[0], user, 0) for user, own in positions.items()]
    heapq.heapify(heap)
    order, turn = [], max(served.values(), default=0)
    while heap:
        count, _, position, user, index = heapq.heappop(heap)
        order.append(waiting[position][0])
        turn += 1
        if index + 1 < len(positions[user]):
            heapq.heappush(heap, (count + 1, turn, positions[user][index + 1], user, index + 1))
    return order


def read_served(root: Path) -> dict[str, int]:
    """The number of every user's last turn; turns are numbered from 1, so that no clock is asked."""
    try:
        return {str(user): int(turn) for user, turn in json.loads((root / SERVED).read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def note_served(root: Path, user: str) -> None:
    """Give a user the next number; for whoever decides about turns, who is one at a time."""
    served = read_served(root)
    write_whole(root / SERVED, json.dumps(served | {user: max(served.values(), default=0) + 1}))
