"""Rules on the sizes of what goes in."""

from __future__ import annotations

from training.gradients.rules.case import Case
from training.gradients.rules.remedies import scale_remedies
from training.gradients.rules.thresholds import (
    CHANNEL_RATIO,
    HALF_PRECISION_ZEROS,
    INPUT_SIZE,
    OUTLIER_RATIO,
)
from training.gradients.verdict import Finding, Remedy


def scale(case: Case) -> list[Finding]:
    """What the recurrence reads is far from one, or its channels are of different orders."""
    data = case.evidence.data
    if data is None:
        return []
    size = max(data.level, data.spread)
    remedies = scale_remedies(case)
    robust = Remedy(why="a scale that outliers do not set", set={"model.scaler": "robust"})
    calm = [robust] if case.usual_scaler == "standard" else remedies
    if size > INPUT_SIZE:
        message = f"the network reads values of size {size:.3g}; its units and rates are made for about 1"
        return [case.finding("scale", "input", size, INPUT_SIZE, message, remedies)]
    if 0 < data.spread < 1 / INPUT_SIZE:
        message = f"the network reads values that vary by {data.spread:.2g}; its units and rates are made for about 1"
        return [case.finding("scale", "input", data.spread, 1 / INPUT_SIZE, message, remedies)]
    if data.channel_ratio > CHANNEL_RATIO:
        message = f"the widest input channel varies {data.channel_ratio:.2g} times as much as the narrowest"
        return [case.finding("scale", "input", data.channel_ratio, CHANNEL_RATIO, message, remedies)]
    if data.outlier_ratio > OUTLIER_RATIO:
        message = f"one value in a thousand lies {data.outlier_ratio:.3g} interquartile ranges from the median"
        return [case.finding("scale", "y", data.outlier_ratio, OUTLIER_RATIO, message, calm, "info")]
    return []


def precision(case: Case) -> list[Finding]:
    """Gradients that half precision cannot write down."""
    if case.setting("fit.precision") != "bfloat16":
        return []
    values = [value for name in case.readings.names("jacobian/") for value in case.values(name)]
    zeros = sum(value == 0 for value in values) / max(len(values), 1)
    if zeros <= HALF_PRECISION_ZEROS:
        return []
    message = f"{zeros:.0%} of the gradients through time are exactly zero in bfloat16: too small to be written down"
    remedy = Remedy(why="numbers that hold them", set={"fit.precision": "float32"})
    return [case.finding("precision", "recurrence", zeros, HALF_PRECISION_ZEROS, message, [remedy], "warning")]
