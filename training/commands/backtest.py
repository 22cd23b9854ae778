"""Rolling-origin evaluation beside naive, seasonal naive and a linear model.

    gradcast backtest --model bike --data all.csv --windows 28 --step-size 24
    gradcast backtest --config lstm.yaml --windows 12                     trains before the first origin
    gradcast backtest --config lstm.yaml --windows 12 --refit warm        and goes on training at every origin

A configuration is trained on what lies before its first origin, and registers nothing; its report and tables lie in the
run's `backtest` folder, in the tracking store too. A registered model is scored as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.options import add_config_arguments, add_output_arguments, print_json, read_config, say
from training.errors import ConfigurationError, Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast backtest`."""
    add_config_arguments(parser)
    parser.add_argument("--model", metavar="NAME[@ALIAS|/VERSION]", help="registered model (default: train the config)")
    parser.add_argument("--bundle", metavar="DIR", help="bundle directory instead of a registered model")
    parser.add_argument(
        "--windows", "--n-windows", dest="n_windows", type=int, metavar="N",
        help="rolling origins per series (default: all that fit the test steps; a few where there are none)",
    )  # fmt: skip
    parser.add_argument("--step-size", type=int, metavar="STEPS", help="steps between origins (default: one horizon)")
    parser.add_argument(
        "--refit", choices=("never", "scratch", "warm"), default="never",
        help="train again along the way, from scratch or on from the current weights (default: never)",
    )  # fmt: skip
    parser.add_argument("--refit-every", type=int, default=1, metavar="K", help="origins per refit (default: 1)")
    parser.add_argument(
        "--refit-steps", type=int, metavar="N",
        help="optimizer steps of a refit (default: the whole budget from scratch, a tenth of it warm)",
    )  # fmt: skip
    parser.add_argument(
        "--baselines", type=_names, default=(), metavar="NAME,...",
        help="more baselines: theta, ets, seasonal_mean, croston; needs the extra gradcast[baselines]",
    )  # fmt: skip
    parser.add_argument(
        "--baseline-seconds", type=float, default=60.0, metavar="S",
        help="time for each of them; one that is not done is left out (default: 60)",
    )  # fmt: skip
    parser.add_argument(
        "--adaptive-intervals", dest="adaptation_rate", type=float, nargs="?", const=0.1, metavar="RATE",
        help="calibrate intervals on validation rows, and again after every origin (adaptive conformal inference, rate 0.1)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE.parquet",
        help="write every forecast with its cutoff; scores per series and per step ahead beside it",
    )  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write the interactive report, one file")
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Score, print the tables, write the forecasts."""
    config = read_config(options)
    _validate(options, config)
    if options.model or options.bundle:
        name, result, checks, more = _backtest_bundle(config, options)
    else:
        name, result, checks, more = _backtest_config(config, options)
    if options.output is not None:
        result.write_parquet(options.output)
    if options.report is not None:
        from training.report.backtest_page import write_backtest_report

        write_backtest_report(result, name, options.report, [check.message for check in checks])
    if options.json:
        print_json(_document(result, name) | {"checks": [check.to_dict() for check in checks]} | more)
        return 0
    from training.backtest_text import format_backtest, format_series, format_steps

    texts = (format_steps(result, name), format_series(result), format_backtest(result, model_name=name))
    print("\n\n".join(text for text in texts if text))
    for check in checks:
        print(f"check: {check}")
    for key, value in more.items():
        print(f"{key:<10} {value}")
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _validate(options: argparse.Namespace, config: Any) -> None:
    problems = []
    if config.data.path is None:
        problems.append(Problem("config_missing", "data.path", "must name a data file.", "Give --data FILE."))
    for name in ("n_windows", "step_size", "refit_every", "refit_steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            flag = "--windows" if name == "n_windows" else f"--{name.replace('_', '-')}"
            problems.append(Problem("backtest_invalid", flag, f"must be at least 1, but is {value} instead."))
    if options.adaptation_rate is not None and not 0.0 <= options.adaptation_rate <= 1.0:
        message = f"must lie between 0 and 1, but is {options.adaptation_rate:g} instead."
        problems.append(Problem("backtest_invalid", "--adaptive-intervals", message))
    if options.refit != "never" and (options.model or options.bundle):
        message = "needs a configuration to train by, but a trained model is given instead."
        problems.append(Problem("backtest_conflict", "--refit", message, "Leave out --model and --bundle."))
    if options.output is not None and options.output.suffix != ".parquet":
        message = f"must end in .parquet, but is {options.output.name} instead."
        problems.append(Problem("output_format", "--output", message))
    if problems:
        raise ConfigurationError(problems)


def _backtest_bundle(config: Any, options: argparse.Namespace) -> tuple[str, Any, tuple[Any, ...], dict[str, str]]:
    from training.adaptive_conformal import window_scales
    from training.backtest import run_backtest
    from training.checks import run_checks
    from training.commands.forecast import open_bundle
    from training.conformal import measure_errors
    from training.data.panel import build_panel
    from training.data.readers import read_frame
    from training.data.splits import build_splits
    from training.data.windows import WindowStore
    from training.evaluation import predictor
    from training.origins import build_origins
    from training.rolling import adapt_and_say, default_windows
    from training.scale_floor import series_scale_floor
    from training.statistical_baselines import validate_baselines, with_statistical_baselines

    validate_baselines(options.baselines)
    bundle = open_bundle(options)
    manifest = bundle.manifest
    columns = manifest.columns
    roles = {name: getattr(columns, name) for name in ("futr_exog", "hist_exog", "stat_exog")}
    season_length = config.data.season_length or manifest.season_length
    fixed = {"fill": manifest.fill, "irregular": manifest.irregular, "freq": manifest.freq, "season_length": season_length}
    data = config.data.model_copy(update=roles | fixed)
    horizon = manifest.network.horizon
    panel = build_panel(
        read_frame(Path(config.data.path), data), data, columns=columns, horizon=horizon, timezone=manifest.timezone
    )
    store = WindowStore(panel, manifest.network.context_length, horizon)
    step_size = options.step_size or horizon
    windows = options.n_windows
    if windows is None and not config.data.test_size:
        windows = default_windows(panel, horizon, step_size)
    test_size = config.data.test_size or horizon + step_size * (windows - 1)
    splits = build_splits(panel, horizon, config.data.val_size, test_size)
    origins = build_origins(panel, splits, "test", horizon, step_size, windows)
    levels = manifest.network.output_levels
    result = run_backtest(predictor(bundle.forecaster, store), panel, store, splits, origins, levels)
    if options.adaptation_rate is not None:
        floor = series_scale_floor(panel, splits, manifest.network.scaler != "none")
        errors = measure_errors(bundle.forecaster, store, splits, floor)
        scales = window_scales(bundle.forecaster, store, result)
        result = adapt_and_say(result, scales, errors, options.adaptation_rate, say(options.quiet))
    result = with_statistical_baselines(result, options.baselines, options.baseline_seconds, say(options.quiet))
    checks = run_checks(panel, splits, {"test": result}, manifest.trained_until)
    return manifest.network.architecture, result, checks, {}


def _backtest_config(config: Any, options: argparse.Namespace) -> tuple[str, Any, tuple[Any, ...], dict[str, str]]:
    from training.allocator import keep_freed_memory
    from training.commands.train import build_tracker
    from training.progress import build_progress
    from training.rolling import RollingPlan, train_and_roll

    keep_freed_memory()
    plan = RollingPlan(
        options.n_windows, options.step_size, options.refit, options.refit_every, options.refit_steps,
        options.baselines, options.baseline_seconds, options.adaptation_rate,
    )  # fmt: skip
    trained, result = train_and_roll(config, plan, build_tracker, build_progress(options.quiet), say(options.quiet))
    report = trained.directory / "backtest" / "report.html"
    more = {"run": str(trained.directory), "report": str(report)}
    return trained.prepared.config.model.network, result, trained.checks, more


def _document(result: Any, name: str) -> dict[str, Any]:
    from training.diebold_mariano import describe_test

    return {
        "windows": len(result.origins),
        "metrics": result.metrics,
        "baselines": result.baselines,
        "diebold_mariano": {
            rival: test._asdict() | {"says": describe_test(test, name, rival)} for rival, test in result.tests.items()
        },
        "per_series": result.per_series_metrics().to_dict(orient="records"),
        "per_horizon": result.per_horizon_metrics().to_dict(orient="records"),
    }
