"""How gradients become updates, and how large the steps are over the budget."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from training.config import OptimizerConfig

PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 2
# One-cycle (Smith & Topin 2018, 1708.07120): rise over this share of the budget, start and end far below the top.
ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4
# Cosine (Loshchilov & Hutter 2017, 1608.03983) ends at this share of the top.
COSINE_END = 0.01


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer that the configuration names, with torch's fused update where there is one.

    Args:
        config: Name, rate, decay and momentum.
        parameters: What to update.
        device: Where the parameters are.
    """
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    fused = device.type in ("cpu", "cuda")
    params = list(parameters)
    match config.name:
        case "sgd" | "nesterov":
            nesterov = config.name == "nesterov"
            return torch.optim.SGD(params, rate, momentum, weight_decay=decay, nesterov=nesterov, fused=fused)
        case "rmsprop":
            return torch.optim.RMSprop(params, rate, weight_decay=decay, momentum=momentum)
        case "adagrad":
            return torch.optim.Adagrad(params, rate, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(params, rate, weight_decay=decay, fused=fused)
        case "adamw":
            return torch.optim.AdamW(params, rate, weight_decay=decay, fused=fused)
        case "nadam":
            return torch.optim.NAdam(params, rate, weight_decay=decay)
        case "radam":
            return torch.optim.RAdam(params, rate, weight_decay=decay)


@dataclass
class LearningRateSchedule:
    """The learning rate as a function of the step; only the plateau schedule remembers anything.

    Attributes:
        config: Schedule, rate and warm-up.
        max_steps: Budget in steps.
        plateau_factor: Current reduction of the plateau schedule.
        plateau_best: Its best validation loss.
        plateau_bad_checks: Checks since then.
    """

    config: OptimizerConfig
    max_steps: int
    plateau_factor: float = 1.0
    plateau_best: float = math.inf
    plateau_bad_checks: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of the step numbered from 1."""
        warmup = self.config.warmup_steps
        if step <= warmup:
            return self.config.learning_rate * step / (warmup + 1)
        progress = (step - warmup - 1) / max(1, self.max_steps - warmup - 1)
        return self.config.learning_rate * self._factor(progress)

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set and return the learning rate of a step."""
        rate = self.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    def observe(self, val_loss: float) -> None:
        """Tell the plateau schedule how validation went."""
        if val_loss < self.plateau_best:
            self.plateau_best, self.plateau_bad_checks = val_loss, 0
            return
        self.plateau_bad_checks += 1
        if self.plateau_bad_checks > PLATEAU_PATIENCE:
            self.plateau_factor, self.plateau_bad_checks = self.plateau_factor * PLATEAU_FACTOR, 0

    def _factor(self, progress: float) -> float:
        match self.config.schedule:
            case "cosine":
                return _cosine(1.0, COSINE_END, progress)
            case "one_cycle":
                if progress < ONE_CYCLE_RISE:
                    return _cosine(ONE_CYCLE_START, 1.0, progress / ONE_CYCLE_RISE)
                return _cosine(1.0, ONE_CYCLE_END, (progress - ONE_CYCLE_RISE) / (1.0 - ONE_CYCLE_RISE))
            case "plateau":
                return self.plateau_factor
            case _:
                return 1.0


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2.0
