"""Keys of the HTTP service: who may forecast, train, and promote.

gradcast keys create laptop --scope admin                     the token is printed once, and kept nowhere
gradcast keys create shop --scope forecast --rate 20 --days 90
gradcast keys list
gradcast keys revoke shop

They are kept as hashes in GRADCAST_KEYS_DIRECTORY; a running service knows of a change within a second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

# The keys are part of the service's program: training never imports it.
KEYS_COMMAND = [sys.executable, "-P", "-m", "app.access"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast keys`."""
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key and print its token, once")
    create.add_argument("name", metavar="NAME", help="whom it is for; stands in the audit log")
    create.add_argument(
        "--scope", dest="scopes", action="append", choices=("forecast", "train", "admin"), required=True,
        help="what it may do (repeatable): forecast; train = upload data and run trainings; admin = everything, and promote",
    )  # fmt: skip
    create.add_argument("--days", type=float, metavar="N", help="days until it expires (default: never)")
    create.add_argument(
        "--rate", type=float, dest="requests_per_second", metavar="N",
        help="requests per second (default: GRADCAST_KEY_REQUESTS_PER_SECOND)",
    )  # fmt: skip
    create.add_argument("--burst", type=int, metavar="N", help="requests at once (default: those of a second)")
    listing = actions.add_parser("list", help="every key, without its token")
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("name", metavar="KEY", help="its name or id")
    for action in (create, listing, revoke):
        action.add_argument("--json", action="store_true", dest="as_json", help="one JSON document on stdout")


def run(options: argparse.Namespace) -> int:
    """Become the process that keeps the keys."""
    names = ("action", "name", "scopes", "days", "requests_per_second", "burst", "as_json")
    request = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    command = [*KEYS_COMMAND, json.dumps(request)]
    os.execve(command[0], command, dict(os.environ))  # noqa: S606  our own interpreter, no shell
