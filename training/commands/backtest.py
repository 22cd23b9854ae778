"""Rolling-origin evaluation beside naive, seasonal naive and a linear model.

    gradcast backtest --model bike --data all.csv --n-windows 28 --step-size 24
    gradcast backtest --config lstm.yaml --test-size 672      trains first, registers nothing

A registered model is scored on the last `n-windows` origins of every series in the file.
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
    parser.add_argument("--n-windows", type=int, metavar="N", help="rolling origins per series (default: all that fit)")
    parser.add_argument("--step-size", type=int, metavar="STEPS", help="steps between origins (default: one horizon)")
    parser.add_argument("--output", type=Path, metavar="FILE.parquet", help="write every forecast with its cutoff")
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Score, print the table, write the forecasts."""
    config = read_config(options)
    if config.data.path is None:
        raise ConfigurationError(
            [Problem("config_missing", "data.path", "must name a data file.", "Give --data FILE.")]
        )
    if options.model or options.bundle:
        name, result = _backtest_bundle(config, options)
    else:
        name, result = _backtest_config(config, options)
    if options.output is not None:
        result.write_parquet(options.output)
    if options.json:
        print_json({"windows": len(result.origins), "metrics": result.metrics, "baselines": result.baselines})
        return 0
    from training.backtest_tables import format_backtest

    print(format_backtest(result, model_name=name))
    return 0


def _backtest_bundle(config: Any, options: argparse.Namespace) -> tuple[str, Any]:
    from training.commands.forecast import open_bundle
    from training.data.panel import build_panel
    from training.data.readers import read_frame

    bundle = open_bundle(options)
    manifest = bundle.manifest
    columns = manifest.columns
    roles = {name: getattr(columns, name) for name in ("futr_exog", "hist_exog", "stat_exog")}
    data = config.data.model_copy(
        update=roles | {"freq": manifest.freq, "season_length": config.data.season_length or manifest.season_length}
    )
    horizon = manifest.network.horizon
    panel = build_panel(
        read_frame(Path(config.data.path), data), data, columns=columns, horizon=horizon, timezone=manifest.timezone
    )
    return manifest.network.architecture, _score(bundle.forecaster, panel, config, horizon, options)


def _backtest_config(config: Any, options: argparse.Namespace) -> tuple[str, Any]:
    from training import pipeline
    from training.allocator import keep_freed_memory
    from training.progress import build_progress

    keep_freed_memory()
    quiet = config.model_copy(update={"tracking": config.tracking.model_copy(update={"register_model": False})})
    result = pipeline.train(quiet, progress=build_progress(options.quiet), say=say(options.quiet))
    prepared = result.prepared
    horizon = prepared.horizon
    return prepared.config.model.architecture, _score(
        prepared.forecaster, prepared.panel, prepared.config, horizon, options
    )


def _score(forecaster: Any, panel: Any, config: Any, horizon: int, options: argparse.Namespace) -> Any:
    from training.backtest import run_backtest
    from training.data.splits import build_splits
    from training.data.windows import WindowStore
    from training.evaluation import predictor
    from training.origins import build_origins

    store = WindowStore(panel, forecaster.config.context_length, horizon)
    step_size = options.step_size or horizon
    test_size = config.data.test_size or horizon + step_size * ((options.n_windows or 1) - 1)
    splits = build_splits(panel, horizon, config.data.val_size, test_size)
    origins = build_origins(panel, splits, "test", horizon, step_size=step_size, n_windows=options.n_windows)
    levels = forecaster.config.output_levels
    return run_backtest(predictor(forecaster, store), panel, store, splits, origins, levels)
