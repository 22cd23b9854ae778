"""Whose turn it is, worked out by hand and by simulating a machine."""

from __future__ import annotations

import heapq
from collections import Counter

from app.jobs.job_directory import JobDirectory
from app.jobs.line import line_up, note_served, order_fairly, read_served

SPEC = {"dataset_id": "d", "dataset_name": "d.csv", "model_name": "m", "promote": False}


def test_the_next_job_is_that_of_the_user_with_the_fewest_running_ones():
    """Ada has two running and waits longest, Bob one, Cy none: Cy first, then Bob, and from then on as their counts say."""
    waiting = [("a1", "ada"), ("a2", "ada"), ("b1", "bob"), ("c1", "cy"), ("c2", "cy"), ("c3", "cy"), ("c4", "cy")]
    # Counts before each turn (ada, bob, cy): 2 1 0 | 2 1 1: bob waited longer | 2 2 1 | then ada 2 before cy 2, cy, ada 3, cy 3.
    assert order_fairly(waiting, {"ada": 2, "bob": 1}, {}) == ["c1", "b1", "c2", "a1", "c3", "a2", "c4"]


def test_users_with_as_many_take_turns_in_the_order_of_their_waiting():
    """Of two without a running job it is the one whose last turn is longer ago, at first the one who has waited longer; a
    single user's line is first come, first served.
    """
    waiting = [("a1", "ada"), ("a2", "ada"), ("b1", "bob")]
    assert order_fairly(waiting, {}, {}) == ["a1", "b1", "a2"]
    assert order_fairly(waiting, {}, {"ada": 1}) == ["b1", "a1", "a2"]
    assert order_fairly(waiting, {}, {"ada": 1, "bob": 2}) == ["a1", "b1", "a2"]
    assert order_fairly([(number, "ada") for number in range(9)], {"ada": 3}, {"ada": 3}) == list(range(9))


def test_turns_are_numbered_without_a_clock(tmp_path):
    """The last turn of everybody who ever had one is kept; a file that says nothing is as none."""
    for user in ("ada", "bob", "ada"):
        note_served(tmp_path, user)
    assert read_served(tmp_path) == {"ada": 3, "bob": 2}
    (tmp_path / "served.json").write_text("[1]")
    assert read_served(tmp_path) == {}


def test_one_job_beside_twenty_starts_within_the_length_of_one():
    """Ada submits twenty jobs of an hour at once, Bob one a minute later: with any number of machines he starts when the next
    place is free, and no place is idle while somebody waits.
    """
    for num_places in (1, 2, 3):
        started = simulate([(0, f"a{number}", "ada") for number in range(20)] + [(1, "b", "bob")], num_places, 60)
        assert started["b"] <= 60
        last = max(started.values())
        assert last == 60 * (20 // num_places)
        assert list(started) == sorted(started, key=started.__getitem__)


def test_two_users_with_many_jobs_share_the_places_evenly():
    """Whoever came first has no advantage once the other is there: of every two turns each gets one."""
    jobs = [(0, f"a{number}", "ada") for number in range(12)] + [(30, f"b{number}", "bob") for number in range(6)]
    started = simulate(jobs, 2, 60)
    turns = [name[0] for name, at in started.items() if 60 <= at < 420]
    assert Counter(turns) == {"a": 6, "b": 6}
    assert all(sorted(turns[index : index + 2]) == ["a", "b"] for index in range(0, len(turns), 2))


def simulate(jobs: list[tuple[int, str, str]], num_places: int, length: int) -> dict[str, int]:
    """When each job starts on so many places, in minutes; jobs are their time of arrival, name and user."""
    users = {name: user for _, name, user in jobs}
    coming, waiting, started, served = sorted(jobs), [], {}, {}
    running: list[tuple[int, str]] = []
    now = 0
    while coming or waiting:
        while coming and coming[0][0] <= now:
            waiting.append(coming.pop(0)[1])
        while running and running[0][0] <= now:
            heapq.heappop(running)
        while waiting and len(running) < num_places:
            counts = Counter(users[name] for _, name in running)
            (name, *_) = order_fairly([(name, users[name]) for name in waiting], counts, served)
            served[users[name]] = len(started) + 1
            waiting.remove(name)
            started[name] = now
            heapq.heappush(running, (now + length, name))
        now += 1
    return started


def test_a_line_counts_the_jobs_that_a_live_process_is_at(tmp_path):
    """Running is who holds a lock; the bound of a user holds back its jobs and nobody else's; the places are told from 1."""
    users = ("ada", "ada", "ada", "bob")
    jobs = [JobDirectory.create(tmp_path, "fit: {}\n", user=user, **SPEC) for user in users]
    with jobs[0].locked():
        line = line_up(JobDirectory.list_under(tmp_path), {})
    assert line.running == {"ada": 1}
    assert line.waiting == (jobs[3], jobs[1], jobs[2])
    assert [line.place(job) for job in jobs] == [None, 2, 3, 1]
    assert line.startable(None) == [jobs[3], jobs[1], jobs[2]]
    assert line.startable(1) == [jobs[3]]
    assert line_up(JobDirectory.list_under(tmp_path), {}).startable(1) == [jobs[0], jobs[3], jobs[1], jobs[2]]
