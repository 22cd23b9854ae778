"""Look at registered models and move their aliases.

gradcast models list
gradcast models show bike
gradcast models promote bike 3 champion
gradcast models rollback bike
"""

from __future__ import annotations

import argparse
from typing import Any

from training.commands.options import add_output_arguments, add_tracking_argument, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast models`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every name with its versions and aliases")
    show = actions.add_parser("show", help="one name in full")
    promote = actions.add_parser("promote", help="point an alias at a version")
    rollback = actions.add_parser("rollback", help="give `champion` back to the version that had it before")
    for action in (show, promote, rollback):
        action.add_argument("name", metavar="NAME", help="registered name")
    promote.add_argument("version", metavar="VERSION", type=int, help="number of the version")
    promote.add_argument("alias", metavar="ALIAS", help="alias, such as champion")
    for action in (listing, show, promote, rollback):
        add_tracking_argument(action)
        add_output_arguments(action)


def run(options: argparse.Namespace) -> int:
    """Do the action and print the model as it is afterwards."""
    from training.config import TrackingConfig
    from training.tracking import registry
    from training.tracking.environment import resolve_uri

    uri = resolve_uri(TrackingConfig(uri=options.tracking_uri))
    if options.action == "promote":
        registry.promote(uri, options.name, options.version, options.alias)
    elif options.action == "rollback":
        registry.rollback(uri, options.name)
    models = registry.list_models(uri) if options.action == "list" else [registry.show_model(uri, options.name)]
    if options.json:
        print_json([model.to_dict() for model in models] if options.action == "list" else models[0].to_dict())
        return 0
    print("\n\n".join(_format(model) for model in models) if models else "no registered models")
    return 0


def _format(model: Any) -> str:
    lines = [model.name]
    for version in model.versions:
        aliases = f"  @{' @'.join(version.aliases)}" if version.aliases else ""
        verdict = version.tags.get("gradient.verdict", "no verdict")
        lines.append(f"  version {version.version}  {verdict}{aliases}  run {version.run_id}")
    return "\n".join(lines)
