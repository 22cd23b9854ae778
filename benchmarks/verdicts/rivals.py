"""Published thresholds applied to the very logs gradcast's verdicts are drawn from.

Sources, read in November 2026: the rule pages of SageMaker Debugger (docs.aws.amazon.com/sagemaker/latest/dg/
debugger-built-in-rules.html, and `doc_source/debugger-built-in-rules.md` of awsdocs/amazon-sagemaker-developer-guide);
`AutoTrainer/utils/utils.py` and `monitor.py` of shiningrain/AUTOTRAINER (Zhang et al. 2021); `callback/callbacks.py` of
DeepDiagnosis/ICSE2022 (Wardat et al. 2022). Each tool is given its own defaults.

What could not be carried over as it is: gradcast logs norms, not every value, so a mean absolute gradient is taken as
that of normal values of the same norm, 0.8 norm / sqrt(count); forecasts have no accuracy, so its place is taken by one
minus the validation loss over the first training loss; and an epoch is a validation check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from models.decoders import STEP_FEATURES
from models.initialization import GATES
from models.stepwise import NUM_FEATURES
from training.gradients.evidence import Evidence
from training.gradients.readings import Readings

Rival = Callable[[Evidence, Readings], str | None]

# Mean of abs(z) of a standard normal z.
NORMAL_MEAN_ABS = math.sqrt(2 / math.pi)


def mean_absolute_gradients(evidence: Evidence, readings: Readings) -> dict[str, list[float]]:
    """Mean absolute gradient of every weight matrix at every logged step, from its norm and its size."""
    found: dict[str, list[float]] = {}
    for name, count in _matrix_sizes(evidence.settings, evidence.layers).items():
        norms = readings.series(f"grad_norm/{name}")[1]
        if norms:
            found[name] = [NORMAL_MEAN_ABS * norm / math.sqrt(count) for norm in norms]
    return found


def _matrix_sizes(settings: Mapping[str, Any], layers: tuple[str, ...]) -> dict[str, int]:
    units, horizon = settings["model.hidden_size"], settings["model.horizon"]
    gates = len(GATES[settings["model.architecture"]]) or 1
    known = len(settings["data.futr_exog"])
    width = 2 + len(settings["data.hist_exog"]) + known
    sizes = {}
    for layer in layers:
        sizes[f"{layer}.weight_ih"] = gates * units * width
        sizes[f"{layer}.weight_hh"] = gates * units * units
        width = units
    return sizes | {
        "decoder.step_projection.weight": units * horizon * STEP_FEATURES,
        "decoder.mixer.weight": (STEP_FEATURES + known) * NUM_FEATURES,
        "head.projection.weight": NUM_FEATURES,
    }


def _largest(readings: Readings, prefix: str, suffix: str) -> float:
    """Largest last value of the quantities so named; 0 if there is none."""
    names = [name for name in readings.names(prefix) if name.endswith(suffix)]
    return max((readings.series(name)[1][-1] for name in names), default=0.0)


def debugger_gradients(evidence: Evidence, readings: Readings) -> str | None:
    """SageMaker Debugger's rules on tensors.

    WeightUpdateRatio above 10 or below 1e-8; DeadRelu: more than 50 % of a layer's ReLUs active under 1 % of the time;
    VanishingGradient: mean absolute gradient below 1e-7. ExplodingTensor (a value that is not finite) stops gradcast's fit
    and is scored from that. SaturatedActivation needs pre-activations beyond 9.5, which are not logged.
    """
    ratios = [value for name in readings.names("update_ratio/") for value in readings.series(name)[1]]
    if any(ratio > 10.0 or ratio < 1e-8 for ratio in ratios):
        return "bad_learning_rate"
    if _largest(readings, "state/", ".dead") > 0.5:
        return "dead"
    gradients = mean_absolute_gradients(evidence, readings).values()
    return "vanishing" if any(value < 1e-7 for values in gradients for value in values) else None


def debugger_all(evidence: Evidence, readings: Readings) -> str | None:
    """The same with SageMaker Debugger's rules on losses, at their defaults.

    Overfit: validation above training loss by more than 10 % of it, once. LossNotDecreasing: the validation loss is not
    below that of the check before. Overtraining: no new optimum by 0.1 in 10 validations.
    """
    found = debugger_gradients(evidence, readings)
    if found:
        return found
    steps, validation = readings.series("loss/val")
    at, training = readings.series("loss/train")
    nearest = [training[max(index for index, when in enumerate(at) if when <= step)] for step in steps]
    if any((loss - train) / train > 0.1 for loss, train in zip(validation, nearest, strict=True) if train > 0):
        return "overfitting"
    if any(after >= before for before, after in pairwise(validation)):
        return "not_learning"
    optimum, waited = math.inf, 0
    for loss in validation:
        optimum, waited = (loss, 0) if loss < optimum - 0.1 else (optimum, waited + 1)
        if waited >= 10:
            return "overfitting"
    return None


def autotrainer(evidence: Evidence, readings: Readings) -> str | None:
    """AutoTrainer's five symptoms with its default parameters.

    Only where accuracy stays below theta = 0.7 or moves by less than delta = 0.01 between checks: dying ReLU (zero share
    at least gamma = 0.7), exploding (first over last kernel gradient above beta_3 = 70), vanishing (that ratio below
    beta_1 = 1e-3 and the first norm below beta_2 = 1e-4), else slow convergence. Otherwise oscillating: swings of
    accuracy of at least zeta = 0.03 in eta = 20 % of the checks.
    """
    accuracy = _accuracy(readings)
    if not accuracy:
        return None
    steepest = max((after - before for before, after in pairwise(accuracy)), default=0.0)
    if max(accuracy) < 0.7 or steepest < 0.01:
        first = readings.series(f"grad_norm/{evidence.layers[0]}.weight_ih")[1]
        last = readings.series("grad_norm/head.projection.weight")[1]
        ratios = [(a / b, a) for a, b in zip(first, last, strict=True) if b > 0]
        if _largest(readings, "state/", ".dead") >= 0.7:
            return "dead"
        if any(ratio > 70.0 for ratio, _ in ratios):
            return "exploding"
        if any(ratio < 1e-3 and norm < 1e-4 for ratio, norm in ratios):
            return "vanishing"
        return "not_learning" if steepest < 0.01 else None
    peaks = [b for a, b, c in _triples(accuracy) if b >= a and b >= c]
    valleys = [b for a, b, c in _triples(accuracy) if b <= a and b <= c]
    swings = sum(high - low >= 0.03 for high, low in zip(peaks, valleys, strict=False))
    return "bad_learning_rate" if swings >= 0.2 * len(accuracy) else None


def _accuracy(readings: Readings) -> list[float]:
    validation, training = readings.series("loss/val")[1], readings.series("loss/train")[1]
    return [max(0.0, 1.0 - loss / training[0]) for loss in validation] if training and training[0] > 0 else []


def _triples(values: list[float]) -> list[tuple[float, float, float]]:
    return list(zip(values, values[1:], values[2:], strict=False))


def deepdiagnosis(evidence: Evidence, readings: Readings) -> str | None:
    """DeepDiagnosis' symptoms with the constants of its callback, in its order.

    Dead node: at least 70 % of ReLU outputs zero; saturated activation: more than half of the pre-activations beyond 5;
    loss not decreasing: five equal ones; numerical error: a gradient that is exactly zero; vanishing gradient: mean
    absolute gradient below 1e-7.
    """
    if _largest(readings, "state/", ".dead") >= 0.7:
        return "dead"
    if _largest(readings, "gate/", ".saturated") > 0.5:
        return "saturated"
    validation = readings.series("loss/val")[1]
    if any(len(set(validation[index : index + 5])) == 1 for index in range(len(validation) - 4)):
        return "not_learning"
    gradients = [value for values in mean_absolute_gradients(evidence, readings).values() for value in values]
    if any(value == 0.0 for value in gradients):
        return "untrained_parameter"
    return "vanishing" if any(value < 1e-7 for value in gradients) else None


def loss_only(_evidence: Evidence, readings: Readings) -> str | None:
    """What can be told from the losses alone: diverged, overfitting, or never below the first by a twentieth."""
    validation, training = readings.series("loss/val")[1], readings.series("loss/train")[1]
    if not validation or not training:
        return None
    best = min(validation)
    if validation[-1] > 2.0 * best:
        return "diverged"
    if validation[-1] > 1.1 * best and training[-1] < training[len(training) // 2]:
        return "overfitting"
    return "not_learning" if best > 0.95 * training[0] else None


RIVALS: dict[str, Rival] = {
    "SageMaker Debugger, tensors": debugger_gradients,
    "SageMaker Debugger, all rules": debugger_all,
    "AutoTrainer": autotrainer,
    "DeepDiagnosis": deepdiagnosis,
    "loss only": loss_only,
}
