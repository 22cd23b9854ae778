"""Look at registered models and move their aliases.

gradcast models list
gradcast models show bike
gradcast models promote bike 3 champion     if it is healthy, and better than champion and seasonal naive
gradcast models promote bike 3 champion --data bike.csv --override "the old one cannot read the new columns"
gradcast models rollback bike
gradcast models export bike champion bike.onnx    version or alias; needs gradcast[onnx]

Two versions are compared on one backtest. If they were scored on different windows, --data names the file that the new
one was trained on: the champion is then scored on it as well. Other aliases than champion are moved without questions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from training.commands.options import add_output_arguments, add_tracking_argument, print_json

EXIT_INPUT = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast models`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every name with its versions and aliases")
    show = actions.add_parser("show", help="one name in full")
    promote = actions.add_parser("promote", help="point an alias at a version")
    rollback = actions.add_parser("rollback", help="give `champion` back to the version that had it before")
    export = actions.add_parser("export", help="write a version's network in a format that other programs run")
    for action in (show, promote, rollback, export):
        action.add_argument("name", metavar="NAME", help="registered name")
    promote.add_argument("version", metavar="VERSION", type=int, help="number of the version")
    promote.add_argument("alias", metavar="ALIAS", help="alias, such as champion")
    promote.add_argument("--data", metavar="FILE", help="file the version was trained on, to score the champion on it too")
    promote.add_argument("--metric", default="mase", metavar="NAME", help="error that is compared (default: mase)")
    promote.add_argument(
        "--min-improvement", type=float, default=0.0, metavar="SHARE",
        help="share by which it must be better than the champion (default: 0)",
    )  # fmt: skip
    promote.add_argument("--override", metavar="REASON", help="promote against the gate; the reason is kept")
    export.add_argument("version", metavar="VERSION", help="number of the version, or an alias")
    export.add_argument("file", metavar="FILE", type=Path, help="where to write")
    export.add_argument("--format", choices=("onnx",), default="onnx", help="of the file (default: onnx)")
    for action in (listing, show, promote, rollback, export):
        add_tracking_argument(action)
        add_output_arguments(action)


def run(options: argparse.Namespace) -> int:
    """Do the action and print the model as it is afterwards."""
    from training.config import TrackingConfig
    from training.tracking import registry
    from training.tracking.environment import resolve_uri

    uri = resolve_uri(TrackingConfig(uri=options.tracking_uri))
    if options.action == "export":
        return _export(uri, options)
    if options.action == "promote" and options.alias == "champion":
        return _promote_champion(uri, options)
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


def _promote_champion(uri: str, options: argparse.Namespace) -> int:
    from training.errors import PromotionRefusedError
    from training.tracking import registry

    gate = _build_gate(uri, options)
    try:
        decision = gate.promote(options.name, options.version, options.override)
    except PromotionRefusedError as error:
        if options.json:
            print_json(error.decision.to_dict())
        print(f"gradcast models: {error}", file=sys.stderr)
        return EXIT_INPUT
    if options.json:
        print_json(decision.to_dict())
        return 0
    if not options.quiet:
        for rule in decision.rules:
            print(f"{'yes' if rule.is_met else 'NO '}  {rule.sentence}")
        if decision.override:
            print(f"promoted all the same: {decision.override}")
        print()
    print(_format(registry.show_model(uri, options.name)))
    return 0


def _export(uri: str, options: argparse.Namespace) -> int:
    from models.bundle import load_bundle
    from training.onnx_export import export_onnx
    from training.tracking.download import download_bundle
    from training.tracking.environment import default_cache_directory
    from training.tracking.registry import resolve

    separator = "/" if options.version.isdecimal() else "@"
    found = resolve(uri, f"{options.name}{separator}{options.version}")
    bundle = load_bundle(download_bundle(uri, found, default_cache_directory()))
    report = export_onnx(bundle, options.file)
    if options.json:
        print_json(report.to_dict())
        return 0
    for name, shape in report.inputs.items():
        print(f"input   {name}  {' x '.join(map(str, shape))}")
    print(f"output  quantiles  windows x {bundle.manifest.network.horizon} x {len(report.levels)}")
    print(f"largest difference to the network {report.largest_difference:.1e} of a window's scale, {report.num_windows} windows")
    print(f"{found.name}/{found.version} written to {report.path}, {report.num_bytes / 1e3:,.0f} kB")
    return 0


def _build_gate(uri: str, options: argparse.Namespace) -> Any:
    from training.errors import ConfigurationError, Problem
    from training.tracking.environment import default_cache_directory
    from training.tracking.promotion import METRICS, Gate, PromotionPolicy

    metric = next((name for name in METRICS if name == options.metric), None)
    problems = []
    if metric is None:
        message = f"must be one of {', '.join(METRICS)}, but is {options.metric!r} instead."
        problems.append(Problem("metric_unknown", "--metric", message))
    if not 0.0 <= options.min_improvement < 1.0:
        message = f"must be at least 0 and below 1, but is {options.min_improvement:g} instead."
        problems.append(Problem("improvement_invalid", "--min-improvement", message))
    if metric is None or problems:
        raise ConfigurationError(problems)
    rescore = None
    cache = default_cache_directory()
    if options.data is not None:
        from training.rematch import build_rescore

        rescore = build_rescore(uri, Path(options.data), cache)
    return Gate(uri, cache, PromotionPolicy(metric, options.min_improvement), rescore)


def _format(model: Any) -> str:
    lines = [model.name]
    for version in model.versions:
        aliases = f"  @{' @'.join(version.aliases)}" if version.aliases else ""
        verdict = version.tags.get("gradient.verdict", "no verdict")
        lines.append(f"  version {version.version}  {verdict}{aliases}  run {version.run_id}")
    return "\n".join(lines)
