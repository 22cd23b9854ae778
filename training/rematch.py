"""Scores a registered version on the backtest of another one, so that the two can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from models.bundle import Bundle, load_bundle
from training.backtest import BacktestResult, run_backtest
from training.config import TrainingConfig, load_config
from training.data.panel import build_panel
from training.data.readers import read_frame
from training.data.splits import build_splits
from training.data.windows import WindowStore
from training.evaluation import MAX_BACKTEST_WINDOWS, baseline_metrics, finite_metrics, predictor
from training.origins import Part, build_origins
from training.tracking.download import download_bundle
from training.tracking.references import ResolvedModel
from training.tracking.run_files import CONFIG, download_run

Scores = Mapping[str, float | None]


def build_rescore(
    uri: str, data: Path, cache_directory: Path
) -> Callable[[ResolvedModel, ResolvedModel], tuple[Scores, Mapping[str, Scores]]]:
    """What the gate asks: scores of the champion on the windows that the challenger was scored on.

    Args:
        uri: The store.
        data: The file that the challenger was trained on.
        cache_directory: Where runs and bundles are downloaded to.
    """

    def rescore(challenger: ResolvedModel, champion: ResolvedModel) -> tuple[Scores, Mapping[str, Scores]]:
        run = download_run(uri, challenger.run_id, cache_directory)
        config = load_config(run / CONFIG, [], {"data.path": str(data)})
        return score_on(load_bundle(download_bundle(uri, champion, cache_directory)), config)

    return rescore


def score_on(bundle: Bundle, config: TrainingConfig) -> tuple[Scores, Mapping[str, Scores]]:
    """Backtest a bundle on the data and the splits of a training.

    Args:
        bundle: The model.
        config: The resolved configuration of that training.

    Returns:
        Metrics by `part/metric`, and those of naive and seasonal naive on the same windows.

    Raises:
        DataError: If the model cannot read the data.
    """
    manifest, horizon = bundle.manifest, bundle.manifest.network.horizon
    columns = manifest.columns
    roles = {name: getattr(columns, name) for name in ("futr_exog", "hist_exog", "stat_exog")}
    data = config.data.model_copy(update=roles)
    assert data.path is not None
    frame = read_frame(Path(data.path), data)
    panel = build_panel(frame, data, columns=columns, horizon=horizon, timezone=manifest.timezone)
    splits = build_splits(panel, horizon, data.val_size, data.test_size)
    store = WindowStore(panel, bundle.forecaster.config.context_length, horizon)
    parts: tuple[Part, ...] = ("val", "test") if data.test_size else ("val",)
    results: dict[str, BacktestResult] = {
        part: run_backtest(
            predictor(bundle.forecaster, store), panel, store, splits,
            build_origins(panel, splits, part, horizon, max_windows=MAX_BACKTEST_WINDOWS),
            bundle.forecaster.config.output_levels, baselines=("naive", "seasonal_naive"),
        )
        for part in parts
    }  # fmt: skip
    return finite_metrics(results), baseline_metrics(results)
