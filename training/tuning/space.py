"""What a search may change: a range, a list or multiples per configuration key, from a YAML file or by default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.config import TrainingConfig, config_keys
from training.errors import ConfigurationError, Problem
from training.yaml_text import UNREADABLE_YAML, read_yaml_file

EXAMPLE = "See gradcast tune --print-space for an example."
Value = bool | int | float | str | None
When = dict[str, tuple[Value, ...]]
# What may differ between two trials whose errors can be compared: the network and how it is trained.
SEARCHABLE = ("model.", "optimizer.", "fit.")
# Of these, what changes the question or the machine instead of the answer.
NOT_SEARCHABLE = ("model.horizon", "model.quantile_levels", "fit.device", "fit.num_threads", "fit.seed")


class _Dimension(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    when: When = Field(default_factory=dict)
    """Only where these keys have one of these values."""


class Range(_Dimension):
    """Numbers between two, both included; whole numbers if both ends are."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high (is {self.low:g}, {self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError("low must be above 0 on a logarithmic scale")
        if self.log and self.step is not None:
            raise ValueError("takes either log or step")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its values are integers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    def ends(self) -> tuple[Value, ...]:
        """The values that must be allowed for all of it to be."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (self.step is None or (value - self.low) % self.step == 0)


class Choices(_Dimension):
    """One of a list."""

    choices: tuple[Value, ...] = Field(min_length=1)

    def ends(self) -> tuple[Value, ...]:
        """All of them."""
        return self.choices

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.choices


class Multiples(_Dimension):
    """Multiples of what the configuration has, rounded to whole steps."""

    multiples: tuple[float, ...] = Field(min_length=1)

    def of(self, base: int, longest: int | None = None) -> Choices:
        """The values they stand for, the longest possible one at most."""
        limit = max(1, longest if longest is not None else base * 10**6)
        values = {min(max(1, round(factor * base)), limit) for factor in self.multiples}
        return Choices(choices=tuple(sorted(values)), when=self.when)


Dimension = Range | Choices
Space = Mapping[str, Dimension]
_KINDS: dict[str, type[Range | Choices | Multiples]] = {"low": Range, "high": Range, "choices": Choices, "multiples": Multiples}


def default_space(config: TrainingConfig) -> dict[str, Range | Choices | Multiples]:
    """Everything worth a search that the user left open; what the user wrote stays.

    Args:
        config: As the user wrote it: which keys were set is read from it.
    """
    gated: When = {"model.architecture": ("lstm", "gru", "segrnn", "mingru", "minlstm", "dilated_gru", "dilated_lstm")}
    recurrent: When = {"model.architecture": (*gated["model.architecture"], "rnn", "dilated_rnn")}
    whole: dict[str, Range | Choices | Multiples] = {
        "model.architecture": Choices(choices=("lstm", "gru", "rnn")),
        "model.context_length": Multiples(multiples=(0.5, 1.0, 1.5, 2.0)),
        "model.hidden_size": Range(low=16, high=128, log=True, when=recurrent),
        "model.num_layers": Range(low=1, high=3, when=recurrent),
        "model.dropout": Range(low=0.0, high=0.4, step=0.1, when=recurrent),
        "model.initialization": Choices(choices=("torch", "forget_bias", "chrono"), when=gated),
        "model.scaler": Choices(choices=("standard", "robust", "mean_abs", "last", "revin")),
        "optimizer.learning_rate": Range(low=3e-4, high=3e-2, log=True),
    }
    if config.model.dilations is not None:
        del whole["model.num_layers"]  # the list says how many
    return {key: dimension for key, dimension in whole.items() if not _is_set(config, key)}


def _is_set(config: TrainingConfig, key: str) -> bool:
    section, name = key.split(".")
    return name in getattr(config, section).model_fields_set


def read_space(path: Path) -> dict[str, Range | Choices | Multiples]:
    """Read a space from a YAML file: `key: [values]`, `key: {low, high, log, step}` or `key: {multiples: [...]}`.

    Raises:
        ConfigurationError: With everything wrong in it.
    """
    try:
        tree = read_yaml_file(path)
    except (OSError, *UNREADABLE_YAML) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(
            [Problem("space_unreadable", str(path), f"must be a YAML file: {reason}.", EXAMPLE)]
        ) from None
    if not isinstance(tree, dict) or not tree:
        message = "must be a mapping from configuration keys to what to try."
        raise ConfigurationError([Problem("space_invalid", str(path), message, EXAMPLE)])
    return parse_space(tree)


def parse_space(tree: Mapping[str, Any]) -> dict[str, Range | Choices | Multiples]:
    """A space from plain values; sections may be nested or dotted.

    Raises:
        ConfigurationError: With everything wrong in it.
    """
    space: dict[str, Range | Choices | Multiples] = {}
    problems: list[Problem] = []
    for key, value in _flat(tree):
        try:
            space[key] = _dimension(value)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            inside = ".".join(str(part) for part in detail["loc"])
            message = f"{inside} {detail['msg'].removeprefix('Value error, ')}.".strip()
            problems.append(Problem("space_invalid", key, message))
        except ValueError as error:
            problems.append(Problem("space_invalid", key, f"{error}."))
    problems += [_not_searchable(key) for key in space if not _may_be_searched(key)]
    if problems:
        raise ConfigurationError(problems)
    return space


def _flat(tree: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and f"{key}" in TrainingConfig.model_fields:
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield str(key), value


def _dimension(value: Any) -> Range | Choices | Multiples:
    if isinstance(value, list):
        return Choices(choices=tuple(value))
    kind = next((_KINDS[name] for name in value if name in _KINDS), None) if isinstance(value, dict) else None
    if kind is None:
        raise ValueError("must be a list, {low, high}, {choices} or {multiples}")
    return kind.model_validate(value)


def _may_be_searched(key: str) -> bool:
    return key in config_keys() and key.startswith(SEARCHABLE) and key not in NOT_SEARCHABLE


def _not_searchable(key: str) -> Problem:
    if key not in config_keys():
        return Problem("space_invalid", key, "is not a known key.", EXAMPLE)
    message = "cannot be searched: errors of such trials could not be compared."
    return Problem("space_invalid", key, message, "Set it with --set, and search over keys of model, optimizer and fit.")


def resolve_space(
    space: Mapping[str, Range | Choices | Multiples], config: TrainingConfig, longest_context: int
) -> dict[str, Dimension]:
    """Multiples become values, and every value is checked against its key.

    Args:
        space: As written.
        config: Without nulls that depend on the data.
        longest_context: Steps; no longer context is tried.

    Returns:
        The space, keys without a condition first.

    Raises:
        ConfigurationError: With every value that its key does not allow.
    """
    problems: list[Problem] = []
    resolved: dict[str, Dimension] = {}
    for key in sorted(space, key=lambda name: bool(space[name].when)):
        dimension = space[key]
        if isinstance(dimension, Multiples):
            section, name = key.split(".")
            base = getattr(getattr(config, section), name)
            if not isinstance(base, int) or isinstance(base, bool):
                problems.append(Problem("space_invalid", key, f"has no multiples: it is {base!r}.", "Name values."))
                continue
            dimension = dimension.of(base, longest_context if key == "model.context_length" else None)
        resolved[key] = dimension
        problems += list(_value_problems(config, key, dimension))
    if problems:
        raise ConfigurationError(problems)
    return resolved


def _value_problems(config: TrainingConfig, key: str, dimension: Dimension) -> Iterable[Problem]:
    section, name = key.split(".")
    current = getattr(config, section)
    for value in dimension.ends():
        try:
            type(current).model_validate(current.model_dump(by_alias=True) | {name: value})
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            yield Problem("space_invalid", key, f"{value!r} is not possible: {detail['msg']}.")


def is_active(dimension: _Dimension, settings: Mapping[str, Any]) -> bool:
    """Whether a dimension's condition holds among settings by dotted key."""
    return all(settings.get(key) in values for key, values in dimension.when.items())


def space_to_yaml(space: Mapping[str, Range | Choices | Multiples]) -> str:
    """The space as a YAML document that `--space` reads."""
    tree = {
        key: list(dimension.choices)
        if isinstance(dimension, Choices) and not dimension.when
        else dimension.model_dump(mode="json", exclude_defaults=True)
        for key, dimension in space.items()
    }
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=110)


def describe(dimension: Dimension) -> str:
    """A dimension in a few characters."""
    if isinstance(dimension, Choices):
        return " | ".join("null" if choice is None else str(choice) for choice in dimension.choices)
    scale: Literal["", ", logarithmic"] = ", logarithmic" if dimension.log else ""
    return f"{dimension.low:g} to {dimension.high:g}{scale}" + (f" by {dimension.step:g}" if dimension.step else "")

