"""The HTTP service and the MLflow dashboard together on this machine, without containers. Ctrl-C ends both."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from typing import Any

from training.commands import serve

DEFAULT_DASHBOARD_PORT = 5000
POLL_SECONDS = 0.5
STOP_SECONDS = 15
EXIT_ENVIRONMENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast up`."""
    serve.add_arguments(parser)
    parser.add_argument(
        "--dashboard-port", type=int, default=DEFAULT_DASHBOARD_PORT,
        help=f"port of the MLflow dashboard (default: {DEFAULT_DASHBOARD_PORT})",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run both until one ends or the user stops them."""
    from training.config import TrackingConfig
    from training.tracking.dashboard import dashboard_command, dashboard_environment
    from training.tracking.environment import resolve_uri

    uri = resolve_uri(TrackingConfig(uri=options.tracking_uri))
    stopping = False

    def stop(_number: int, _frame: Any) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    environment = serve.service_environment(options)
    host = environment.get("GRADCAST_HOST", serve.DEFAULT_HOST)
    port = environment.get("GRADCAST_PORT", serve.DEFAULT_PORT)
    dashboard = dashboard_command(uri, host, options.dashboard_port)
    environment.setdefault("GRADCAST_DASHBOARD_URL", f"http://{host}:{options.dashboard_port}")
    processes = {
        "service": subprocess.Popen(serve.SERVICE_COMMAND, env=environment),  # noqa: S603  our own interpreter, no shell
        "dashboard": subprocess.Popen(dashboard, env=dashboard_environment(uri)),  # noqa: S603  our own interpreter, no shell
    }
    print(f"service    http://{host}:{port}", file=sys.stderr)
    print(f"dashboard  http://{host}:{options.dashboard_port}", file=sys.stderr)
    try:
        while not stopping:
            for name, process in processes.items():
                if process.poll() is not None:
                    print(f"gradcast up: the {name} ended with exit code {process.returncode}", file=sys.stderr)
                    return EXIT_ENVIRONMENT
            time.sleep(POLL_SECONDS)
    finally:
        _stop(list(processes.values()))
    return 0


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
