"""`gradcast train --launcher ray`: the workers of Ray Train run the same training, and are started anew when one is lost."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from models.errors import GradcastError
from training.config import TrainingConfig
from training.errors import ClusterError, WorkerLostError
from training.exchange import LOST
from training.launching import SILENCE
from training.loop import FitInterruptedError
from training.mending import NewTracker
from training.on_ray.cluster import connected
from training.on_ray.desk import Assignment, Desk, Message
from training.on_ray.watching import LossWatch
from training.on_ray.worker import BUG, MARK, work
from training.outcome import Outcome
from training.pipeline import Say
from training.progress import FitProgress
from training.reporting import gradcast_version
from training.run_directory import RunDirectory
from training.tracking.environment import make_store, resolve_uri

PATIENCE_SECONDS, END_SECONDS = 0.2, 10.0
# Teams that are lost one after the other without a new checkpoint: whatever kills them will do so again.
MAX_LOSSES = 3


class ToldError(GradcastError):
    """An error of a worker, in its own words."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__("worker", "free of errors", "not")
        self.code, self.sentence = code, sentence

    def __str__(self) -> str:
        return self.sentence


def train_on_ray(
    config: TrainingConfig,
    new_tracker: NewTracker,
    num_workers: tuple[int, int],
    progress: FitProgress,
    say: Say,
    run: RunDirectory,
    listen: Callable[[], Callable[[], bool]],
) -> Outcome:
    """Train with workers of Ray Train.

    Args:
        config: As the user wrote it, or that of the run to continue.
        new_tracker: Makes the tracker of a run.
        num_workers: Fewest and most; fewer than the most only while the cluster has no room for them.
        progress: What the user sees of the fit.
        say: Told every choice and result in a sentence.
        run: Where everything goes; continued if there is a run in it already.
        listen: Called once Ray has set its own signal handlers; what it returns says whether the user wants to stop.

    Returns:
        What there is to report.

    Raises:
        ClusterError: If there is no cluster, or its machines do not share the run directory.
        WorkerLostError: If one team after the other is lost without a new checkpoint.
        FitInterruptedError: If the user stopped the fit.
        GradcastError: Whatever went wrong in a worker, by kind.
    """
    make_store(resolve_uri(config.tracking))
    processors = config.fit.num_threads or 1
    with connected(num_workers[1] * processors) as place, _marked(run) as mark:
        stop_requested = listen()
        assignment = Assignment(
            config.model_dump(mode="json", by_alias=True), str(run.path), mark, str(Path.cwd()),
            {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}, new_tracker, gradcast_version(),
        )  # fmt: skip
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote(assignment)
        free = ray.cluster_resources().get("CPU", 0.0)
        if free < num_workers[0] * processors:
            say(f"waiting for {num_workers[0] * processors} processors; the Ray cluster has {free:.0f}")
        team = _Team(_build_trainer(config, num_workers, desk, place))
        try:
            outcome = _listen(desk, team, _Conversation(progress, say), stop_requested)
        except (ToldError, FitInterruptedError):
            team.join(END_SECONDS)
            raise
        team.join(END_SECONDS)
    return outcome


def _listen(desk: Any, team: _Team, conversation: _Conversation, stop_requested: Callable[[], bool]) -> Outcome:
    while conversation.outcome is None:
        messages = ray.get(desk.hear.remote(PATIENCE_SECONDS))
        if not messages and not team.is_alive():
            raise ClusterError("Ray Train", "able to train", "not", team.failure)
        for message in messages:
            conversation.answer(message)
        if stop_requested():
            desk.stop.remote()
    return conversation.outcome


class _Team(threading.Thread):
    """Waits for Ray Train, whose call returns at the end only."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self.trainer, self.failure = trainer, ""
        self.start()

    def run(self) -> None:
        try:
            self.trainer.fit()
        except Exception as error:  # noqa: BLE001  the main thread says it
            self.failure = str(error).strip()


def _build_trainer(config: TrainingConfig, num_workers: tuple[int, int], desk: Any, place: Path) -> TorchTrainer:
    fewest, most = num_workers
    device = config.fit.device
    use_gpu = device.startswith("cuda") or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= most)
    resources = {"CPU": config.fit.num_threads or 1} | ({"GPU": 1} if use_gpu else {})
    return TorchTrainer(
        work,
        train_loop_config={"desk": desk},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo", timeout_s=int(SILENCE.total_seconds())),
        scaling_config=ScalingConfig(
            num_workers=most if fewest == most else (fewest, most), use_gpu=use_gpu, resources_per_worker=resources
        ),
        # Checkpoints are the run's own; Ray Train keeps nothing but what it needs to start.
        run_config=RunConfig(
            name="gradcast", storage_path=str(place / "train"), failure_config=FailureConfig(max_failures=-1),
            callbacks=[LossWatch(desk)],
        ),
    )  # fmt: skip


class _Conversation:
    """What the workers say becomes what the user sees, until they say how it ended."""

    def __init__(self, progress: FitProgress, say: Say) -> None:
        self.progress, self.say = progress, say
        self.outcome: Outcome | None = None
        self.num_losses = 0

    def answer(self, message: Message) -> None:
        """Show one message.

        Raises:
            GradcastError: If it says that something went wrong.
            FitInterruptedError: If it says that the fit was stopped.
        """
        getattr(self, f"_{message.kind}")(*message.values)

    def _say(self, sentence: str) -> None:
        self.say(sentence)

    def _start(self, max_steps: int, step: int) -> None:
        self.progress.start(max_steps, step)

    def _update(self, step: int, values: dict[str, float]) -> None:
        self.progress.update(step, values)

    def _check(self, step: int, values: dict[str, float]) -> None:
        self.num_losses = 0
        self.progress.check(step, values)

    def _stop(self) -> None:
        self.progress.stop()

    def _reading(self, what: str, total: int, unit: str, done: int) -> None:
        self.progress.reading.start(what, total, unit, done)

    def _read(self, count: int) -> None:
        self.progress.reading.advance(count)

    def _read_all(self) -> None:
        self.progress.reading.stop()

    def _lost(self, ranks: list[int], reason: str) -> None:
        self.num_losses += 1
        self.progress.stop()
        who = f"worker{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
        if self.num_losses > MAX_LOSSES:
            where, contract, _, remedy = LOST
            raise WorkerLostError(where, contract, f"lost {self.num_losses} times in a row, last {who} ({reason})", remedy)
        self.say(f"{who} lost; a new team goes on from the last checkpoint")

    def _done(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def _stopped(self, directory: Path | None) -> None:
        stop = FitInterruptedError()
        stop.directory = directory
        raise stop

    def _failed(self, code: str, sentence: str) -> None:
        if code == BUG:
            raise RuntimeError(sentence)
        raise ToldError(code, sentence)


@contextmanager
def _marked(run: RunDirectory) -> Iterator[str]:
    """A mark in the run directory by which another machine knows that it sees the same one."""
    run.path.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(16)
    (run.path / MARK).write_text(mark, encoding="utf-8")
    try:
        yield mark
    finally:
        (run.path / MARK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a run is in it
            run.path.rmdir()
