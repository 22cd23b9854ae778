"""Rolling-origin evaluation of a configuration: what a model that is trained along the way would have forecast."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from training.adaptive_conformal import adapt_intervals, window_scales
from training.backtest import BacktestResult, join_backtests, run_backtest
from training.checks import run_checks
from training.choices import choose_horizon
from training.config import TrainingConfig
from training.conformal import Errors, measure_errors
from training.data.panel import Panel, load_panel
from training.data.splits import build_splits
from training.data.windows import covariate_statistics
from training.evaluation import predictor
from training.networks import build_network
from training.origins import Origins, build_origins
from training.pipeline import Say, TrainingResult, build_fit, calibrate_fit, train
from training.precision import DTYPES
from training.preparation import Prepared
from training.progress import SILENT_PROGRESS, FitProgress
from training.report.backtest_page import write_backtest_report
from training.reporting import describe_run
from training.run_directory import RunDirectory
from training.scale_floor import series_scale_floor
from training.statistical_baselines import DEFAULT_SECONDS, validate_baselines, with_statistical_baselines
from training.tracking.tracker import NOOP_TRACKER, Tracker

RefitMode = Literal["never", "scratch", "warm"]
# Where nobody said how many: so many origins, but no more of the typical series than this share.
DEFAULT_WINDOWS = 8
DEFAULT_SHARE = 5
# Steps of a warm refit, as a share of the first fit's budget.
WARM_SHARE = 10


@dataclass(frozen=True)
class RollingPlan:
    """Where to forecast from, and when to train again.

    Attributes:
        n_windows: Rolling origins per series; None = all that fit into the test steps, or a few where there are none.
        step_size: Steps between origins; None = one horizon.
        refit: never = the first fit forecasts everything; scratch = a new fit from a new start; warm = the fit goes on
            from the current weights.
        every: Origins that one fit forecasts before the next.
        steps: Optimizer steps of a refit; None = the whole budget from scratch, a tenth of it for a warm one.
        baselines: Statistical baselines to add to naive, seasonal naive and linear.
        baseline_seconds: Time for each of them.
        adaptation_rate: How fast intervals adapt from origin to origin; None = not at all.
    """

    n_windows: int | None = None
    step_size: int | None = None
    refit: RefitMode = "never"
    every: int = 1
    steps: int | None = None
    baselines: Sequence[str] = ()
    baseline_seconds: float = DEFAULT_SECONDS
    adaptation_rate: float | None = None


def default_windows(panel: Panel, horizon: int, step_size: int) -> int:
    """Origins where nobody said how many: a few, from at most a fifth of the typical series."""
    longest = int(np.median(panel.lengths)) // DEFAULT_SHARE
    return max(1, min(DEFAULT_WINDOWS, (longest - horizon) // step_size + 1))


def reserve_test(config: TrainingConfig, plan: RollingPlan) -> TrainingConfig:
    """The configuration with horizon and test steps for the plan; nothing is trained on what is forecast.

    Args:
        config: As the user wrote it; test steps that are given stay.
        plan: How many origins, how far apart.
    """
    if config.data.test_size:
        return config
    panel = load_panel(config.data, horizon=config.model.horizon or 0)
    horizon = choose_horizon(config, panel)
    step_size = plan.step_size or horizon
    windows = plan.n_windows or default_windows(panel, horizon, step_size)
    test_size = horizon + step_size * (windows - 1)
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"test_size": test_size}),
            "model": config.model.model_copy(update={"horizon": horizon}),
        }
    )


def train_and_roll(
    config: TrainingConfig,
    plan: RollingPlan,
    new_tracker: Callable[[TrainingConfig], Tracker] = lambda _config: NOOP_TRACKER,
    progress: FitProgress = SILENT_PROGRESS,
    say: Say = lambda _sentence: None,
    output: Path | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[TrainingResult, BacktestResult]:
    """Train on what lies before the first origin, then forecast every origin, training again as the plan says.

    Args:
        config: As the user wrote it; nothing is registered.
        plan: Origins, refits and baselines.
        new_tracker: Makes the tracker of the run.
        progress: What the user sees of every fit.
        say: Told every choice and result in a sentence.
        output: Directory of the run; None = a new one under `runs/`.
        stop_requested: Asked after every step of the first fit.

    Returns:
        The first fit's result, and the backtest of all origins; its files lie in the run's `backtest` folder.

    Raises:
        GradcastError: Whatever went wrong, by kind.
    """
    validate_baselines(plan.baselines)
    config = reserve_test(config, plan)
    # A fit on all rows would have seen what is forecast.
    config = config.model_copy(
        update={
            "tracking": config.tracking.model_copy(update={"register_model": False}),
            "fit": config.fit.model_copy(update={"final": False}),
        }
    )
    result = train(config, new_tracker(config), progress, say, output, stop_requested=stop_requested)
    run = RunDirectory(result.directory)
    rolled = roll(result.prepared, run, plan, progress, say)
    rolled.write_parquet(run.path / "backtest" / "rolling.parquet")
    result.checks = run_checks(result.prepared.panel, result.prepared.splits, {"test": rolled}, result.prepared.known_until)
    write_backtest_report(
        rolled, result.prepared.config.model.network, run.path / "backtest" / "report.html",
        [check.message for check in result.checks],
    )  # fmt: skip
    tracker = new_tracker(config)
    tracker.start(describe_run(result.prepared, run, {"gradcast.refit": plan.refit}))
    tracker.log_artifact(run.path / "backtest", "backtest")
    result.num_unsent = tracker.finish("FINISHED")
    return result, rolled


def roll(
    prepared: Prepared,
    run: RunDirectory,
    plan: RollingPlan,
    progress: FitProgress = SILENT_PROGRESS,
    say: Say = lambda _sentence: None,
) -> BacktestResult:
    """Forecast the test steps from every origin of the plan.

    Args:
        prepared: Data, and the network trained on what lies before the test steps. A warm refit changes its weights.
        run: Where refits keep their checkpoints while they run.
        plan: Origins, refits and baselines.
        progress: What the user sees of every fit.
        say: Told about every refit.
    """
    origins = build_origins(
        prepared.panel, prepared.splits, "test", prepared.horizon, plan.step_size, plan.n_windows
    )
    size = plan.every if plan.refit != "never" else int(origins.num_later.max()) + 1
    rounds = origins.rounds(size)
    # Before any refit: a warm one changes the weights, and its errors are then those of rows it has seen.
    errors = None if plan.adaptation_rate is None else validation_errors(prepared)
    results = []
    for number, part in enumerate(rounds):
        if number:
            say(f"refit {number} of {len(rounds) - 1} ({plan.refit})")
            prepared = refit(prepared, part, plan, RunDirectory(run.path / "refits" / str(number)), progress)
        results.append(
            run_backtest(
                predictor(prepared.forecaster, prepared.store), prepared.panel, prepared.store, prepared.splits, part,
                prepared.forecaster.config.output_levels,
            )
        )  # fmt: skip
    shutil.rmtree(run.path / "refits", ignore_errors=True)
    result = join_backtests(results)
    if errors is not None and plan.adaptation_rate is not None:
        scales = window_scales(prepared.forecaster, prepared.store, result)
        result = adapt_and_say(result, scales, errors, plan.adaptation_rate, say)
    return with_statistical_baselines(result, plan.baselines, plan.baseline_seconds, say)


def validation_errors(prepared: Prepared) -> Errors:
    """Errors of the network as it is on the validation windows."""
    is_scaled = prepared.config.model.scaler != "none"
    floor = series_scale_floor(prepared.panel, prepared.splits, is_scaled)
    return measure_errors(prepared.forecaster, prepared.store, prepared.splits, floor.to(prepared.store.device))


def adapt_and_say(
    result: BacktestResult, scale: Float[np.ndarray, " W"], errors: Errors, rate: float, say: Say
) -> BacktestResult:
    """`adapt_intervals`, and what it did to the coverage."""
    adapted = adapt_intervals(result, scale, errors, rate)
    shares = ", ".join(
        f"{result.metrics[name]:.0%} to {adapted.metrics[name]:.0%} of {name.removeprefix('coverage_')} %"
        for name in result.metrics
        if name.startswith("coverage_")
    )
    say(f"intervals adapted along {int(result.origins.num_later.max()) + 1} origins: {shares}")
    return adapted


def refit(
    prepared: Prepared, origins: Origins, plan: RollingPlan, run: RunDirectory, progress: FitProgress = SILENT_PROGRESS
) -> Prepared:
    """Train on everything before the first of these origins.

    Args:
        prepared: Data and the network so far.
        origins: What the new fit will forecast.
        plan: How to fit.
        run: Where the fit keeps its checkpoints; needed no longer than the fit.
        progress: What the user sees of it.

    Returns:
        The same with later splits and a network fitted to them.
    """
    config, panel, horizon = prepared.config, prepared.panel, prepared.horizon
    test_size = horizon + origins.step_size * int(origins.num_later.max())
    splits = build_splits(panel, horizon, config.data.val_size, test_size)
    config = refit_config(config, plan, test_size)
    forecaster = prepared.forecaster
    if plan.refit == "scratch":
        torch.manual_seed(config.fit.seed)
        forecaster = build_network(config, panel, covariate_statistics(panel, splits))
        forecaster.to(device=prepared.store.device, dtype=DTYPES[config.fit.precision])
    prepared = replace(prepared, config=config, splits=splits, forecaster=forecaster)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    fit, _ = build_fit(prepared, run, NOOP_TRACKER, progress, keep_start=plan.refit == "warm")
    fit.run()
    calibrate_fit(prepared, fit)
    shutil.rmtree(run.path)
    return prepared


def refit_config(config: TrainingConfig, plan: RollingPlan, test_size: int) -> TrainingConfig:
    """The configuration of a refit: its budget, no instruments, and where its training rows end."""
    share = WARM_SHARE if plan.refit == "warm" else 1
    steps = plan.steps or max(1, config.fit.max_steps // share)
    optimizer = config.optimizer
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"test_size": test_size}),
            "fit": config.fit.model_copy(
                update={"max_steps": steps, "val_check_steps": min(config.fit.val_check_steps, max(1, steps // 5))}
            ),
            "optimizer": optimizer.model_copy(update={"warmup_steps": min(optimizer.warmup_steps, steps - 1)}),
            "gradients": config.gradients.model_copy(update={"preset": "off", "on_fault": "warn"}),
        }
    )
