"""Run the training jobs that a service queued.

gradcast worker                             stay, and take whatever comes
gradcast worker --jobs 4                    four trainings at once on this machine
gradcast worker --leave-when-idle 60

A service on one machine starts its own worker when a job comes. Where jobs run elsewhere (another container, another
machine that shares GRADCAST_JOBS_DIRECTORY), the service has GRADCAST_JOB_WORKERS=0 and this command runs there. SIGTERM
lets trainings write a checkpoint; the next worker takes them up. The bound of trainings at once holds over all workers of
the machine; with NVIDIA cards every training gets one of its own.
"""

from __future__ import annotations

import argparse
import os
import sys

from training.commands.options import add_tracking_argument, positive

# The worker is part of the service's program: training never imports it.
WORKER_COMMAND = [sys.executable, "-P", "-m", "app.jobs"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast worker`."""
    parser.add_argument(
        "--jobs", type=positive, metavar="N",
        help="trainings at once on this machine, over all its workers (default: GRADCAST_JOB_WORKERS, else 1)",
    )  # fmt: skip
    parser.add_argument(
        "--leave-when-idle", type=float, metavar="SECONDS", help="leave after so long without a job (default: stay)"
    )
    add_tracking_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Become the worker's process."""
    command = [*WORKER_COMMAND]
    if options.leave_when_idle is not None:
        command += ["--leave-when-idle", str(options.leave_when_idle)]
    given = {"GRADCAST_TRACKING_URI": options.tracking_uri} if options.tracking_uri else {}
    given |= {"GRADCAST_JOB_WORKERS": str(options.jobs)} if options.jobs is not None else {}
    os.execve(command[0], command, dict(os.environ) | given)  # noqa: S606  our own interpreter, no shell
