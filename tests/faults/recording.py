"""A run that records points while something happens to its store, and what arrived of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from training.tracking.environment import open_client
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.tracker import RegistrationRequest, RunDescription

# Of one report; a request to the slowest of the servers here takes longer.
SLOWEST_SECONDS = 0.35
KEYS = ("loss/train", "grad_norm/total")


def record(
    uri: str, spool: Path, bundle: Path, num_steps: int, before_step: Callable[[int], None], before_end: Callable[[], None]
) -> str:
    """Record points and register a model; returns the name that both have in the store.

    Args:
        uri: The store.
        spool: Where events wait; its name becomes that of experiment, job and model.
        bundle: What is registered.
        num_steps: Points of each metric.
        before_step: What happens on the way.
        before_end: What happens while the model is being registered and the rest is sent.
    """
    name = spool.name
    tracker = MlflowTracker(uri, spool, interval_seconds=0.05, in_process=True, register_deadline_seconds=0.0)
    tracker.start(RunDescription(name, job_id=name))
    for step in range(num_steps):
        before_step(step)
        started = time.perf_counter()
        tracker.log_metrics({key: step + index / 7 for index, key in enumerate(KEYS)}, step)
        assert time.perf_counter() - started < SLOWEST_SECONDS, "the training waited for its tracker"
    tracker.register(RegistrationRequest(name, bundle))
    before_end()
    assert tracker.finish("FINISHED", deadline_seconds=60.0) == 0
    return name


def losses(uri: str, name: str, num_steps: int) -> tuple[int, int]:
    """Points, runs and versions that are lost, and that are doubled."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    versions = client.search_model_versions(f"name = '{name}'")
    lost, doubled = int(not runs) + int(not versions), max(0, len(runs) - 1) + max(0, len(versions) - 1)
    for key in KEYS:
        history = client.get_metric_history(runs[0].info.run_id, key)
        points = Counter((point.step, point.value) for point in history)
        expected = {(step, step + KEYS.index(key) / 7) for step in range(num_steps)}
        lost += len(expected - set(points))
        doubled += sum(points.values()) - len(points) + len(set(points) - expected)
    assert runs[0].info.status == "FINISHED"
    assert client.get_registered_model(name).aliases == {"champion": versions[0].version}
    return lost, doubled
