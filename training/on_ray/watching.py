"""In Ray Train's controller, whose process imports nothing but this."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback


class LossWatch(UserCallback):  # type: ignore[misc]  # of a package that is not followed
    """Tells the desk which workers were lost.

    Args:
        desk: Where to tell it.
    """

    def __init__(self, desk: Any) -> None:
        self.desk = desk

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A team ended before its time; those that only lost another worker are not to blame."""
        blamed = {rank: error for rank, error in worker_exceptions.items() if "WorkerLostError" not in repr(error)}
        reasons = [f"{type(error).__name__}: {str(error).strip()}" for error in blamed.values()]
        self.desk.tell.remote("lost", sorted(blamed or worker_exceptions), "\n".join(reasons))
