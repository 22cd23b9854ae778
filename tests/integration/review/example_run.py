"""A run that never was: a two-layer LSTM whose gradient halves every three steps, and what the rules said about it."""

from __future__ import annotations

from pathlib import Path

from training.config import TrainingConfig, build_config
from training.gradients.evidence import DataFacts, Evidence, NeedEvidence, Outcome
from training.gradients.readings import Readings
from training.gradients.verdict import Finding, Remedy, Verdict
from training.judgement import flat_settings
from training.report.review import RunReview
from training.run_directory import RunDirectory

LAGS = (1, 2, 3, 4, 5, 10, 20, 40, 80, 168)
STEPS = (1, 100, 200, 300)
# Steps over which the gradient halves, by layer, at the first and the last measurement.
HALF_LIVES = {"lstm.0": (1.0, 3.0), "lstm.1": (2.0, 4.0), "stack": (1.5, 3.0)}
REACH, NEED = 32, 168


def build_readings() -> Readings:
    """Flow, gates, losses and norms of three hundred steps."""
    readings = Readings()
    for position, step in enumerate(STEPS):
        values: dict[str, float] = {}
        for layer, (first, last) in HALF_LIVES.items():
            half_life = first + (last - first) * position / (len(STEPS) - 1)
            values |= {f"jacobian/{layer}@{lag}": 0.5 ** ((lag - 3) / half_life) for lag in LAGS}
            values[f"grad_reach/{layer}"] = float(min(int(3 + 9.966 * half_life), 168))
        values["grad_reach/ratio_at_need"] = values["jacobian/stack@168"]
        for layer in ("lstm.0", "lstm.1"):
            for gate, opening in (("input", 0.4), ("forget", 0.62), ("cell", -0.1), ("output", 0.5)):
                values[f"gate/{layer}.{gate}.saturated"] = 0.05 * position
                values[f"gate/{layer}.{gate}.open"] = opening
                if gate != "cell":
                    values[f"gate/{layer}.{gate}.shut"] = 0.0
            values[f"state/{layer}.saturated"] = 0.0
        values["state/decoder.dead"] = 0.25
        readings.add(step, values)
    for step in range(10, 301, 10):
        readings.add(
            step,
            {"loss/train": 1.0 / step, "grad_norm/total": 0.5, "grad_norm/lstm.0": 0.1, "update_ratio/lstm.0": 1e-3},
        )
    for step in (100, 200, 300):
        readings.add(step, {"loss/val": 2.0 / step})
    return readings


def build_verdict() -> Verdict:
    """Vanishing, with two remedies, one of which would break a careless shell or page."""
    remedies = (
        Remedy(why="chrono starts with a long memory", set={"model.initialization": "chrono", "model.num_layers": 1}),
        Remedy(why="no clipping", set={"fit.max_grad_norm": None, "tracking.run_name": "a <b> & 'c'"}),
    )
    fault = Finding(
        rule="vanishing_through_time", severity="fault", where="stack", step=300, value=2.3e-9, threshold=1e-3,
        message="At lag 168, 2e-9 of the gradient is left <script>alert(1)</script>.", remedies=remedies,
    )  # fmt: skip
    info = Finding(
        rule="overfitting", severity="info", where="loss/val", step=300, value=1.2, threshold=1.1, message="A little."
    )
    return Verdict(verdict="vanishing", reach_steps=REACH, need_steps=NEED, findings=(fault, info))


def build_settings() -> TrainingConfig:
    """Hourly data, two layers."""
    return build_config(
        {
            "data": {"path": "traffic.csv", "freq": "h"},
            "model": {"architecture": "lstm", "num_layers": 2, "context_length": 168, "horizon": 24},
            "fit": {"max_steps": 300},
        }
    )


def build_evidence(config: TrainingConfig) -> Evidence:
    """A shown need, and forecasts worse than repeating the last season."""
    baselines = {"naive": 2.0, "seasonal_naive": 0.7, "linear": 0.9, "mean": 1.8}
    contexts, errors = (0, 24, 84, 168, 336), (0.9, 0.5, 0.4, 0.2, 0.19)
    return Evidence(
        settings=flat_settings(config),
        layers=("lstm.0", "lstm.1"),
        need=NeedEvidence(steps=NEED, source="season", is_shown=True, gain=0.5, contexts=contexts, errors=errors),
        data=DataFacts(level=0.7, spread=1.0, outlier_ratio=2.0, channel_ratio=1.5),
        outcome=Outcome(metric="mase", val_error=1.4, baseline_error=baselines, step=200),
        step=300,
        best_step=200,
    )


def build_review(path: Path) -> RunReview:
    """The run in memory, with a directory that is not there."""
    config = build_settings()
    return RunReview("bike", path, config, build_readings(), build_evidence(config), build_verdict())


def write_run(path: Path, status: str = "finished") -> Path:
    """Write a run's directory."""
    config = build_settings()
    run = RunDirectory.create(config, path)
    run.write_state(status=status)
    build_readings().write_parquet(path / "gradients" / "readings.parquet")
    (path / "gradients" / "evidence.json").write_text(build_evidence(config).model_dump_json(), encoding="utf-8")
    (path / "gradients" / "verdict.json").write_text(build_verdict().model_dump_json(), encoding="utf-8")
    return path
