"""What is kept of a run: description, bundle manifest, figures, files, and what the tracking store is told."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from models.bundle import BundleManifest
from models.config import NETWORK_CONFIG_ADAPTER
from models.initialization import GATES
from training.backtest import BacktestResult
from training.conformal import CalibrationReport
from training.data.context import MAX_CONTEXT_BYTES, context_bytes, write_context
from training.data.panel import Panel
from training.data.splits import Splits
from training.evaluation import baseline_metrics, finite_metrics
from training.gradients.evidence import Evidence
from training.gradients.norms import gate_matrix
from training.gradients.readings import Readings
from training.gradients.verdict import Verdict
from training.loop import FitState
from training.plots import figure_to_png, plot_forecasts, plot_gate_norms, plot_grad_norms, plot_losses
from training.preparation import Prepared
from training.report.backtest_page import write_backtest_report
from training.report.document import write_report_files
from training.report.flow_plots import flow_pictures
from training.report.review import RunReview
from training.report.view import write_view
from training.report.words import Unit
from training.run_directory import RunDirectory
from training.tracking.tracker import NOOP_TRACKER, DatasetDescription, RunDescription, Tracker

logger = logging.getLogger(__name__)


def describe_run(prepared: Prepared, run: RunDirectory, tags: Mapping[str, str] | None = None) -> RunDescription:
    """What the tracking store learns at the start; `tags` are added to the usual ones."""
    config, panel = prepared.config, prepared.panel
    source = Path(config.data.path or "")
    schema = {"unique_id": "id", "ds": "time", panel.target: "target"}
    for role in ("futr_exog", "hist_exog", "stat_exog"):
        schema |= dict.fromkeys(getattr(panel.columns, role), role)
    params = {
        f"{section}.{key}": str(value)
        for section, values in config.public_tree(is_path_kept=False).items()
        for key, value in values.items()
    }
    return RunDescription(
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name or f"{config.model.network} {config.tracking.model_name}",
        tags={"gradcast.version": gradcast_version(), "data.fingerprint": panel.fingerprint} | _git_tags() | dict(tags or {}),
        params=params,
        dataset=DatasetDescription(
            name=source.name, source=source.name, digest=panel.fingerprint, num_rows=len(panel.values),
            num_series=len(panel.ids), schema=schema,
        ),
        job_id=run.state()["job_id"],
    )  # fmt: skip


def describe_bundle(
    prepared: Prepared,
    backtests: Mapping[str, BacktestResult],
    verdict: Verdict,
    calibration: CalibrationReport | None = None,
    final_fit_steps: int | None = None,
) -> BundleManifest:
    """The manifest of the trained network."""
    panel, splits = prepared.panel, prepared.splits
    last = max(range(len(panel.ids)), key=lambda series: _end_of_training(panel, splits, series))
    return BundleManifest(
        network=NETWORK_CONFIG_ADAPTER.validate_python(prepared.forecaster.config.model_dump()),
        columns=panel.columns,
        target=panel.target,
        freq=panel.freq,
        season_length=prepared.config.data.season_length or panel.season_length,
        time_kind=panel.time_kind,
        timezone=panel.timezone,
        fill=panel.fill,
        irregular=prepared.config.data.irregular,
        calibration={} if calibration is None else calibration.to_dict(),
        final_fit_steps=final_fit_steps,
        warm_start=prepared.config.fit.warm_start,
        metrics=finite_metrics(backtests),
        baselines=baseline_metrics(backtests),
        gradient=verdict.model_dump(mode="json"),
        data_fingerprint=panel.fingerprint,
        trained_until=str(_end_of_training(panel, splits, last)),
        num_series=len(panel.ids),
        versions={"gradcast": gradcast_version(), "torch": torch.__version__} | _holidays_version(panel),
    )


def _holidays_version(panel: Panel) -> dict[str, str]:
    return {"holidays": version("holidays")} if panel.columns.holidays else {}


def _end_of_training(panel: Panel, splits: Splits, series: int) -> Any:
    end = max(int(splits.train_end[series]), 1)
    return panel.timestamps(series, end - 1, end)[0]


def verdict_tags(verdict: Verdict) -> dict[str, str]:
    """Searchable tags of run and version."""
    tags: dict[str, str] = {"gradient.verdict": verdict.verdict}
    if verdict.reach_steps is not None:
        tags["gradient.reach_steps"] = str(verdict.reach_steps)
    if verdict.need_steps is not None:
        tags["gradient.need_steps"] = str(verdict.need_steps)
    return tags


def gradcast_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("gradcast")
    except PackageNotFoundError:
        return "0+source"


def _git_tags() -> dict[str, str]:
    head = Path(".git/HEAD")
    if not head.is_file():
        return {}
    text = head.read_text(encoding="utf-8").strip()
    reference = Path(".git") / text.removeprefix("ref: ")
    if not text.startswith("ref: "):
        return {"git.commit": text}
    return {"git.commit": reference.read_text(encoding="utf-8").strip()} if reference.is_file() else {}


def extra_files(prepared: Prepared) -> dict[str, bytes]:
    """Files of the bundle besides weights and description: the last rows of every series, unless they are unwanted."""
    if not prepared.config.data.keep_context:
        return {}
    length = prepared.forecaster.config.context_length
    if context_bytes(prepared.panel, length) > MAX_CONTEXT_BYTES:
        logger.warning("too many last rows to be kept in the bundle: whoever asks for a forecast must bring the past of a series")
        return {}
    return {"context.parquet": write_context(prepared.panel, None, length)}


def write_gradients(
    run: RunDirectory, evidence: Evidence, readings: Readings | None = None, verdict: Verdict | None = None
) -> None:
    """Write what a verdict rests on, so that it can be drawn again from the run's directory alone.

    Args:
        run: Where to.
        evidence: What is known; before the first step all but the outcome.
        readings: What was measured, once there is something.
        verdict: Once there is one.
    """
    folder = run.path / "gradients"
    folder.mkdir(exist_ok=True)
    (folder / "evidence.json").write_text(evidence.model_dump_json(indent=1), encoding="utf-8")
    if readings is not None:
        readings.write_parquet(folder / "readings.parquet")
    if verdict is not None:
        (folder / "verdict.json").write_text(verdict.model_dump_json(indent=1), encoding="utf-8")


def read_verdict(directory: Path) -> Verdict:
    """The verdict that a run left in its directory.

    Raises:
        FileNotFoundError: If the run was not judged.
    """
    return Verdict.model_validate_json((directory / "gradients" / "verdict.json").read_text(encoding="utf-8"))


def write_reports(
    prepared: Prepared,
    run: RunDirectory,
    state: FitState,
    backtests: Mapping[str, BacktestResult],
    verdict: Verdict,
    evidence: Evidence,
    warnings: Sequence[str] = (),
) -> None:
    """Write readings, evidence, verdict, figures and backtests into the run's directory; `warnings` stand in its report."""
    write_gradients(run, evidence, state.readings, verdict)
    review = RunReview(run.path.resolve().name, run.path, prepared.config, state.readings, evidence, verdict)
    write_report_files(review)
    write_view(review)
    figures = run.path / "figures"
    figures.mkdir(exist_ok=True)
    for name, figure in fit_figures(prepared, state).items():
        (figures / f"{name}.png").write_bytes(figure_to_png(figure))
    newest = backtests.get("test", backtests["val"])
    write_backtest_report(newest, prepared.config.model.network, run.path / "backtest" / "report.html", warnings)
    for part, result in backtests.items():
        result.write_parquet(run.path / "backtest" / f"{part}.parquet")
        (figures / f"forecasts_{part}.png").write_bytes(figure_to_png(plot_forecasts(result, prepared.panel)))


def fit_figures(prepared: Prepared, state: FitState) -> dict[str, Figure]:
    """Losses, gradient norms per layer and per gate, and update ratios over steps."""
    readings = state.readings
    losses = plot_losses(*readings.series("loss/train"), *readings.series("loss/val"), best_step=state.best_step)
    figures = {"losses": losses}
    layers = tuple(prepared.forecaster.layers())
    steps, norms = _columns(readings, "grad_norm/", ("total", *layers))
    if steps:
        figures["grad_norms"] = plot_grad_norms(steps, norms, prepared.config.fit.max_grad_norm)
    gates = [f"{layer}.{gate_matrix(layer)}.{gate}" for layer in layers for gate in GATES.get(layer.partition(".")[0], ())]
    steps, norms = _columns(readings, "grad_norm/", tuple(gates))
    if norms:
        figures["gate_norms"] = plot_gate_norms(steps, norms)
    return figures


def _columns(readings: Readings, prefix: str, names: tuple[str, ...]) -> tuple[list[int], dict[str, list[float]]]:
    columns = {name: readings.series(prefix + name) for name in names}
    filled = {name: values for name, (_, values) in columns.items() if values}
    return (next(steps for steps, values in columns.values() if values) if filled else []), filled


def log_outcome(
    tracker: Tracker,
    run: RunDirectory,
    state: FitState,
    backtests: Mapping[str, BacktestResult],
    verdict: Verdict,
    note: str,
    unit: Unit,
) -> None:
    """Tell the tracking store how the run ended, and give it the files; the flow of the gradient by step as well."""
    metrics = finite_metrics(backtests)
    for name, scores in baseline_metrics(backtests).items():
        # The other scores of the baselines are in the card and the bundle: in the dashboard they would bury the run's own.
        metrics[f"baseline/{name}/mae"] = scores.get("test/mae", scores.get("val/mae"))
    tracker.log_metrics({key: value for key, value in metrics.items() if value is not None}, state.step)
    tracker.log_tags(verdict_tags(verdict))
    tracker.log_note(note)
    if tracker is not NOOP_TRACKER:
        for step, picture in flow_pictures(state.readings, verdict.need_steps, unit).items():
            tracker.log_figure("gradients/flow", picture, step)
    with tempfile.TemporaryDirectory() as folder:  # the run's own file keeps the directory of the data, to be resumed
        public = Path(folder) / "config.yaml"
        public.write_text(run.config().to_public_yaml(), encoding="utf-8")
        tracker.log_artifact(public)
    for folder in ("figures", "gradients", "backtest", "bundle"):
        tracker.log_artifact(run.path / folder, folder)
