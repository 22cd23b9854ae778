"""From a fit to the evidence the rules look at, during training and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from models.forecaster import RecurrentForecaster
from training.backtest import BacktestResult
from training.config import TrainingConfig, redact_uri
from training.evaluation import Evaluation, measure_outcome
from training.gradients.conclusion import conclude
from training.gradients.evidence import DataFacts, Evidence, NeedEvidence, Outcome
from training.gradients.monitor import (
    NOOP_MONITOR,
    PROBE_WINDOWS,
    GradientMonitor,
    Probe,
    RecurrentMonitor,
    data_spreads,
)
from training.gradients.past_use import measure_past_use
from training.gradients.rules.thresholds import EARLIEST_SHARE
from training.gradients.trace import layer_names
from training.gradients.verdict import Verdict
from training.loop import FitData, FitState
from training.losses import ForecastLoss
from training.preparation import Prepared

# In mid-run a few hundred windows say whether a fit is worth going on with.
WATCH_WINDOWS = 256
# A fault must be found at this many checks in a row before a fit is given up.
WATCH_CONFIRMATIONS = 2
OUTLIER_QUANTILE = 0.999
MAX_FACT_SERIES = 200


class Look(NamedTuple):
    """One fit in mid-run.

    Attributes:
        outcome: Skill on some of the validation windows.
        verdict: What the rules say now.
        evidence: What it rests on.
        is_confirmed: Whether a fault was found at this check and the one before, not in the first third of the budget.
    """

    outcome: Outcome
    verdict: Verdict
    evidence: Evidence
    is_confirmed: bool


class Judge:
    """Gathers evidence about one fit and draws the verdict.

    Args:
        prepared: Data and network.
        probe: The windows the instruments measure on.
    """

    def __init__(self, prepared: Prepared, probe: Probe) -> None:
        self.prepared, self.probe = prepared, probe
        self.evaluation = Evaluation(prepared)
        # Before training: a scale that training makes up for is still the scale that was brought.
        self.data = measure_data(prepared, probe)
        self._suspicions = 0

    def judge(self, state: FitState, backtests: Mapping[str, BacktestResult]) -> tuple[Verdict, Evidence]:
        """The verdict on a finished fit, with the best weights in the network."""
        outcome = measure_outcome(backtests["val"], self.prepared, state.best_step)
        evidence = self.gather(state, outcome)
        return conclude(evidence, state.readings), evidence

    def is_hopeless(self, state: FitState) -> bool:
        """Whether two checks in a row, not in the first third of the budget, found a fault."""
        return not self._is_early(state) and self.look(state).is_confirmed

    def look(self, state: FitState) -> Look:
        """The verdict in mid-run, with the weights as they are now."""
        network = self.prepared.forecaster
        network.eval()
        result = self.evaluation.run("val", WATCH_WINDOWS)
        network.train()
        outcome = measure_outcome(result, self.prepared, state.step)
        evidence = self.gather(state, outcome)
        verdict = conclude(evidence, state.readings)
        # "Not learning" alone is what a network that learns slowly or abruptly looks like from the inside.
        is_fault = verdict.verdict not in ("healthy", "inconclusive", "not_learning", "overfitting")
        self._suspicions = self._suspicions + 1 if is_fault and not self._is_early(state) else 0
        return Look(outcome, verdict, evidence, self._suspicions >= WATCH_CONFIRMATIONS)

    def _is_early(self, state: FitState) -> bool:
        return state.step < EARLIEST_SHARE * self.prepared.config.fit.max_steps

    def gather(self, state: FitState, outcome: Outcome | None) -> Evidence:
        """Everything known about the fit at this point, with the weights in the network."""
        prepared = self.prepared
        network = prepared.forecaster
        return Evidence(
            settings=flat_settings(prepared.config),
            layers=layer_names(network) if isinstance(network, RecurrentForecaster) else (),
            need=None if prepared.need is None else NeedEvidence.of(prepared.need),
            data=self.data,
            outcome=outcome,
            past_gain=None if outcome is None else self._measure_past_gain(),
            step=state.step,
            best_step=state.best_step,
        )

    def _measure_past_gain(self) -> float | None:
        """What the model itself gains from beyond half of the need, as the need's `gain` says of a linear model."""
        need, network = self.prepared.need, self.prepared.forecaster
        context = network.config.context_length
        if need is None or not isinstance(network, RecurrentForecaster) or not 2 <= need.steps <= context:
            return None
        use = measure_past_use(network, self.probe.inputs, self.probe.objective, lags=(need.steps // 2,))
        return 1.0 - use.loss / use.permuted_loss[0] if use.permuted_loss[0] > 0 else None


def flat_settings(config: TrainingConfig) -> dict[str, Any]:
    """The configuration with dotted keys; the store's address without its password."""
    sections = config.model_dump(mode="json", by_alias=True)
    settings = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    if config.tracking.uri is not None:
        settings["tracking.uri"] = redact_uri(config.tracking.uri)
    return settings


def build_probe(prepared: Prepared, data: FitData, loss_function: ForecastLoss) -> Probe:
    """Training windows, drawn once with a generator of their own, and their loss."""
    generator = torch.Generator().manual_seed(prepared.config.fit.seed)
    batch = data.store.gather(*data.windows.sample(PROBE_WINDOWS, generator))
    floor = data.floor(batch)
    return Probe(
        batch.inputs,
        lambda forecast: loss_function(forecast, batch.target, batch.target_mask, floor),
        batch.series,
    )


def build_monitor(prepared: Prepared, probe: Probe) -> GradientMonitor:
    """The instruments the configuration asks for; none for a network without recurrence."""
    preset, network = prepared.config.gradients.preset, prepared.forecaster
    if preset == "off" or not isinstance(network, RecurrentForecaster):
        return NOOP_MONITOR
    need = None if prepared.need is None else prepared.need.steps
    fit = prepared.config.fit
    return RecurrentMonitor(network, probe, preset, need, fit.tbptt_steps, fit.max_steps)


def build_watch(judge: Judge) -> Callable[[FitState], bool]:
    """Whether the fit is given up at its checks: only where the configuration wants faults to stop or be healed."""
    if judge.prepared.config.gradients.on_fault == "warn":
        return lambda _state: False
    return judge.is_hopeless


def measure_data(prepared: Prepared, probe: Probe) -> DataFacts | None:
    """Sizes of what the network reads; None for a network without recurrence."""
    if not isinstance(prepared.forecaster, RecurrentForecaster):
        return None
    level, spread, ratio = data_spreads(prepared.forecaster, probe.inputs)
    return DataFacts(level=level, spread=spread, outlier_ratio=_outlier_ratio(prepared), channel_ratio=ratio)


def _outlier_ratio(prepared: Prepared) -> float:
    panel, ends = prepared.panel, prepared.splits.train_end
    chosen = np.linspace(0, len(ends) - 1, min(len(ends), MAX_FACT_SERIES)).round().astype(int)
    ratios = []
    for series in chosen:
        start = int(panel.offsets[series])
        rows = slice(start, start + int(ends[series]))
        values = np.asarray(panel.values[rows])[np.asarray(panel.observed[rows])]
        if len(values):
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
            if high > low:
                ratios.append(float(np.quantile(np.abs(values - middle), OUTLIER_QUANTILE) / (high - low)))
    return float(np.median(ratios)) if ratios else 0.0
