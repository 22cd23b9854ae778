"""The HTTP service: POST /forecast, straight from the registry or from a bundle directory.

gradcast serve                              every registered model
gradcast serve --model bike --port 8000
gradcast serve --bundle runs/bike/bundle    no registry, no MLflow

On 127.0.0.1 it is open to everybody on this machine until the first key is made (`gradcast keys create`), and says so. On any
other address it asks for keys, always.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys

from training.commands.options import add_tracking_argument

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
# The service is another program: training never imports it.
# -P: a folder named app in the current directory must not be taken for ours.
SERVICE_COMMAND = [sys.executable, "-P", "-m", "app"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast serve`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--model", action="append", metavar="NAME", help="registered model to serve (repeatable; default: all)"
    )
    what.add_argument("--bundle", metavar="DIR", help="bundle directory to serve instead of a registry")
    # No defaults here: a flag that was not given must not beat GRADCAST_HOST and GRADCAST_PORT of the environment.
    parser.add_argument("--host", help=f"address to listen on (default: GRADCAST_HOST, else {DEFAULT_HOST})")
    parser.add_argument("--port", type=int, help=f"port to listen on (default: GRADCAST_PORT, else {DEFAULT_PORT})")
    parser.add_argument(
        "--open", action="store_true", help="ask for no key, though there are some; on a loopback address only"
    )
    add_tracking_argument(parser)
    parser.epilog = (
        "Everything else is a setting in the environment: GRADCAST_MAX_QUEUE_WINDOWS and so on, see docs/serving.md."
    )


def run(options: argparse.Namespace) -> int:
    """Become the service's process."""
    environment = service_environment(options)
    os.execve(SERVICE_COMMAND[0], SERVICE_COMMAND, environment)  # noqa: S606  our own interpreter, no shell


def service_environment(options: argparse.Namespace) -> dict[str, str]:
    """Environment of the service's process: its settings, as flags or already there."""
    given = {
        "GRADCAST_HOST": options.host,
        "GRADCAST_PORT": None if options.port is None else str(options.port),
        "GRADCAST_MODELS": ",".join(options.model or ()),
        "GRADCAST_BUNDLE": options.bundle,
        "GRADCAST_TRACKING_URI": options.tracking_uri,
    }
    environment = dict(os.environ) | {key: value for key, value in given.items() if value}
    if options.open:
        environment["GRADCAST_OPEN"] = "always"
    elif _is_loopback(environment.get("GRADCAST_HOST", DEFAULT_HOST)):
        # Whoever sits at this machine and has made no key wants none; the program itself assumes nothing of the kind.
        environment.setdefault("GRADCAST_OPEN", "until_keys")
    return environment


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
