"""The one configuration: YAML file, flags, job body, MLflow parameters and provenance are the same thing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from models.config import (
    COUNT_HEADS,
    COUNT_SCALERS,
    DEFAULT_PATHS,
    DISTRIBUTION_NAMES,
    MAX_PATHS,
    MAX_SERIES_EMBEDDING,
    RECURSIVE_HEADS,
    SHARED_HEADS,
    ConformalName,
    DecoderName,
    HeadName,
    InitializationName,
    ScalerName,
    SkipName,
)
from training.errors import ConfigurationError, Problem
from training.yaml_text import UNREADABLE_YAML, read_yaml, read_yaml_file

ArchitectureName = Literal[
    "linear", "rnn", "gru", "lstm", "mingru", "minlstm", "segrnn", "dilated_rnn", "dilated_gru", "dilated_lstm"
]
# Where one set of defaults would not do justice to all: whole segments need wider states (docs/networks.md has figures).
# A dilated network is its stack: 1, 2, 4, 8 steps back.
ARCHITECTURE_DEFAULTS: dict[str, dict[str, Any]] = {
    "segrnn": {"hidden_size": 128, "dropout": 0.1},
    "dilated_rnn": {"num_layers": 4}, "dilated_gru": {"num_layers": 4}, "dilated_lstm": {"num_layers": 4},
}  # fmt: skip
# Learning rates of the default optimizer, likewise: a chain of few updates bears, and repays, longer steps.
ARCHITECTURE_RATES: dict[str, float] = {"segrnn": 0.003, "linear": 0.003}
# Set away from their defaults, these say that a recurrence step by step is wanted.
_OF_A_CELL = (
    "hidden_size", "num_layers", "dropout", "nonlinearity", "dilations", "initialization", "forget_bias", "init_gain",
    "decoder", "num_paths", "skip",
)  # fmt: skip
DILATED: tuple[ArchitectureName, ...] = ("dilated_rnn", "dilated_gru", "dilated_lstm")
# Architectures whose state takes one step after another.
STEPWISE: tuple[ArchitectureName, ...] = ("rnn", "gru", "lstm", "mingru", "minlstm", *DILATED)
DataFormat = Literal["auto", "long", "wide", "tsf"]
FillPolicy = Literal["mask", "ffill", "linear", "zero", "error"]
IrregularPolicy = Literal["error", "resample"]
OptimizerName = Literal["sgd", "nesterov", "rmsprop", "adagrad", "adam", "adamw", "nadam", "radam"]
ScheduleName = Literal["constant", "cosine", "one_cycle", "plateau"]
LossName = Literal["auto", "quantile", "mae", "mse", "huber", "frequency", "nll"]
CALENDAR_FEATURES = (
    "minute_of_hour", "hour_of_day", "day_of_week", "day_of_month", "day_of_year", "week_of_year", "month_of_year",
    "quarter_of_year",
)  # fmt: skip


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, serialize_by_alias=True
    )


class DataConfig(_Section):
    """Where the series are and what their columns mean."""

    path: str | None = None
    """Data: CSV, CSV.gz, parquet, a folder of parquet, or Monash .tsf."""
    format: DataFormat = "auto"
    """Layout of the file: long (one row per series and time), wide (one column per series), tsf; auto looks."""
    id_col: str = "unique_id"
    """Column with the series' name; absent from the file means one series."""
    time_col: str = "ds"
    """Column with the timestamp (datetime or integer)."""
    target_col: str = "y"
    """Column to forecast."""
    freq: str | None = None
    """Step between rows as a pandas offset alias (h, 30min, D, W-MON, MS; 1 for integer time); null = inferred."""
    season_length: int | None = Field(default=None, ge=1)
    """Season in steps, used by MASE and seasonal naive; null = chosen from freq and data."""
    futr_exog: tuple[str, ...] = ()
    """Covariates known into the future."""
    hist_exog: tuple[str, ...] = ()
    """Covariates known for the past only."""
    stat_exog: tuple[str, ...] = ()
    """Covariates constant over a series."""
    calendar: Literal["auto", "none"] | tuple[str, ...] = "auto"
    """Calendar features as sine and cosine: auto = those the frequency can show, none, or a list of names."""
    holidays: tuple[str, ...] = ()
    """Public holidays as a known-future flag: country codes such as US or DE, with a subdivision as in US-CA."""
    fill: FillPolicy = "mask"
    """Missing targets: mask (shown to the network as missing), ffill, linear, zero, or error."""
    irregular: IrregularPolicy = "error"
    """Timestamps off the grid: error, or resample to the mean of each step of data.freq."""
    val_size: int | None = Field(default=None, ge=1)
    """Validation steps before the test steps of every series; null = a tenth of the series, at least one horizon."""
    test_size: int = Field(default=0, ge=0)
    """Test steps at the end of every series, never trained on nor selected on."""
    storage: Literal["auto", "memory", "map"] = "auto"
    """Where the panel of parquet lives: memory, map (built once on disk, read from there), or auto: map above 128 MiB."""
    keep_context: bool = True
    """Keep the last context_length rows of each series in the bundle, to forecast a known series by name alone."""

    @field_validator("holidays", mode="before")
    @classmethod
    def _one_place_is_a_list(cls, value: Any) -> Any:
        # YAML 1.1 reads Norway's code as false.
        places = ["NO" if place is False else place for place in (value if isinstance(value, list | tuple) else [value])]
        if len(set(places)) < len(places):
            raise ValueError("names a place twice")
        return places

    @field_validator("calendar")
    @classmethod
    def _known_features(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        unknown = [name for name in value if name not in CALENDAR_FEATURES] if isinstance(value, tuple) else []
        if unknown:
            raise ValueError(f"unknown calendar feature {unknown[0]!r}; known are {', '.join(CALENDAR_FEATURES)}")
        return value


class ModelConfig(_Section):
    """The network."""

    architecture: ArchitectureName | None = None
    """Network: linear, rnn, gru, lstm, mingru, minlstm, segrnn, dilated_rnn, dilated_gru or dilated_lstm; null = lstm where
    something of its recurrence is set, else segrnn, or linear where that forecasts held-out rows as well."""
    context_length: int | None = Field(default=None, ge=1, le=100_000)
    """Past steps the network sees; null = covers the need, a season and two horizons."""
    horizon: int | None = Field(default=None, ge=1, le=100_000)
    """Future steps to forecast; null = one season."""
    hidden_size: int = Field(default=64, ge=1, le=16_384)
    """Units per recurrent layer (segrnn: 128)."""
    num_layers: int = Field(default=1, ge=1, le=64)
    """Recurrent layers on top of each other (dilated: 4)."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of units dropped between layers and before the output (segrnn: 0.1)."""
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """Activation of the rnn and dilated_rnn architectures."""
    segment_length: int | None = Field(default=None, ge=1, le=100_000)
    """Steps that segrnn reads and forecasts at a time; null = a season of at most 24 steps, else 24."""
    linear_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of segrnn's forecast that a linear map of the context has; chosen where the architecture is."""
    linear_length: int | None = Field(default=None, ge=1, le=100_000)
    """The newest steps of the context, those that this linear map reads; null = all."""
    recurrent_length: int | None = Field(default=None, ge=1, le=100_000)
    """The newest steps of the context, those that segrnn reads through its recurrence; null = all."""
    dilations: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, min_length=1, max_length=64)
    """Steps between a state and the next, per layer of a dilated network; null = 1, 2, 4, ..., shorter than the context."""
    initialization: InitializationName | None = None
    """Start of the recurrent weights: torch, orthogonal, forget_bias, chrono, identity; null = the first that reaches."""
    forget_bias: float | None = None
    """Total forget (GRU: update) gate bias at the start; null = as the initialization says."""
    init_gain: float | None = Field(default=None, gt=0.0)
    """Factor on the recurrent matrices at the start; null = 1."""
    series_embedding: int | None = Field(default=None, ge=1, le=MAX_SERIES_EMBEDDING)
    """Length of a learned vector per series, joined to its input; null = none. A series not trained on has one in common."""
    scaler: ScalerName = "standard"
    """Per-window scaling: standard, mean_abs, robust, last, offset (last value, unit kept), revin, none (counts: mean_abs)."""
    decoder: DecoderName = "direct"
    """How the final state becomes the horizon: direct (all steps at once) or recursive (each from the one before)."""
    num_paths: int = Field(default=DEFAULT_PATHS, ge=1, le=MAX_PATHS)
    """Sampled paths that the quantiles of the recursive decoder rest on."""
    skip: SkipName | None = None
    """Past the recurrence: linear hands the decoder a linear forecast; null = linear for gru and lstm left as they are."""
    head: HeadName = "quantile"
    """Output per step: point, quantile, or a distribution: normal, student_t, negative_binomial, poisson (counts)."""
    quantile_levels: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
    """Levels of the forecast's quantiles, increasing, in (0, 1); the point head has none."""

    conformal: ConformalName = "none"
    """Calibrate the quantiles on validation errors, per step ahead: none or split (a point head gets quantiles by it)."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, given: Any) -> Any:
        """An architecture, a head or a decoder may have defaults of its own; what is written down stays."""
        if not isinstance(given, Mapping):
            return given
        of_architecture = ARCHITECTURE_DEFAULTS.get(str(given.get("architecture")), {})
        of_head = {"scaler": "mean_abs"} if given.get("head") in COUNT_HEADS else {}
        of_decoder = {"head": "student_t"} if given.get("decoder") == "recursive" else {}
        dilations = given.get("dilations")
        of_dilations = {"num_layers": len(dilations)} if isinstance(dilations, list | tuple) else {}
        return of_architecture | of_head | of_decoder | of_dilations | dict(given)

    @property
    def network(self) -> ArchitectureName:
        """The architecture of a configuration that leaves nothing to be chosen."""
        assert self.architecture is not None
        return self.architecture

    @field_validator("quantile_levels")
    @classmethod
    def _levels_increase(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or any(not 0.0 < level < 1.0 for level in levels):
            raise ValueError("must name levels strictly between 0 and 1")
        if any(a >= b for a, b in itertools.pairwise(levels)):
            raise ValueError("must be increasing")
        return levels


class OptimizerConfig(_Section):
    """How gradients become updates."""

    name: OptimizerName = "adamw"
    """sgd, nesterov, rmsprop, adagrad, adam, adamw, nadam or radam."""
    learning_rate: float = Field(default=0.001, gt=0.0)
    """Step size at the top of the schedule."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """L2 pull of the weights towards zero (decoupled for adamw)."""
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Momentum of sgd, nesterov and rmsprop."""
    schedule: ScheduleName | None = None
    """Learning rate over the budget: constant, cosine, one_cycle, plateau; null = chosen for the budget."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up before the schedule."""


class FitConfig(_Section):
    """The training loop."""

    max_steps: int = Field(default=2000, ge=1)
    """Optimizer steps at most; where the network is chosen, as many of them as held-out training rows ask for."""
    batch_size: int = Field(default=64, ge=1)
    """Windows per step."""
    loss: LossName = "auto"
    """auto = quantile for the quantile head, mae for the point head (or mse, huber, frequency), nll for distributions."""
    max_grad_norm: float | None = Field(default=1.0, gt=0.0)
    """Clip the total gradient norm here; null = no clipping."""
    val_check_steps: int = Field(default=100, ge=1)
    """Steps between validation losses (and checkpoints)."""
    patience: int | None = Field(default=5, ge=1)
    """Checks in a row clearly worse than the best before stopping; null = never stop early."""
    min_delta: float = Field(default=0.0, ge=0.0)
    """Smallest decrease of the validation loss that counts as improvement."""
    tbptt_steps: int | None = Field(default=None, ge=1)
    """Truncate backpropagation this many steps before the forecast origin; null = whole context."""
    final: bool = False
    """After selection, fit once more on training, validation and test rows for the chosen steps; that network is kept."""
    warm_start: str | None = Field(default=None, min_length=1, max_length=512)
    """Registered version whose weights and network to start from: name, name@alias or name/version."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of everything random."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Arithmetic of the network; bfloat16 is autocast."""
    compile: bool = False
    """torch.compile the network where that helps."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads, each with a share of every batch; null = the fewest that are nearly fastest, of at most torch's own
    number, by a short measurement."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    """auto, cpu, cuda, cuda:N or mps; never part of the bundle."""


class GradientsConfig(_Section):
    """What is measured of the gradient, and what follows."""

    preset: Literal["off", "economy", "full"] = "economy"
    """Instruments by price."""
    need_steps: int | None = Field(default=None, ge=1)
    """How far back the data is known to reach, in steps; null = estimated."""
    on_fault: Literal["warn", "stop", "heal"] = "warn"
    """What a fault does to the run: say so, end it early, or try the remedies as child runs and keep what helps."""
    heal_attempts: int = Field(default=4, ge=1)
    """Child runs that healing may try."""
    heal_seconds: float | None = Field(default=None, gt=0)
    """Healing begins no further child run after so many seconds; null = no limit."""

    @field_validator("preset", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare `off` as false.
        return "off" if value is False else value


class TrackingConfig(_Section):
    """Where runs and models are kept."""

    uri: str | None = None
    """MLflow tracking URI; null = MLFLOW_TRACKING_URI, else sqlite:///mlruns/mlflow.db."""
    experiment: str = Field(default="gradcast", min_length=1)
    """MLflow experiment."""
    run_name: str | None = None
    """Name of the run; null = architecture and data file."""
    model_name: str | None = None
    """Registered model's name; null = the data file's name."""
    register_model: bool = Field(default=True, alias="register")
    """Register the model."""
    alias: str = Field(default="challenger", pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,99}$")
    """Alias of a healthy version when the name already has a champion."""
    required: bool = False
    """Strict: a tracking server that does not answer ends the run with exit code 1."""


class TrainingConfig(_Section):
    """Everything a training run depends on, besides the data itself."""

    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    fit: FitConfig = Field(default_factory=FitConfig)
    gradients: GradientsConfig = Field(default_factory=GradientsConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_network(cls, given: Any) -> Any:
        """Settings of one kind of network say that it is wanted; and a network may have a learning rate of its own."""
        if not isinstance(given, Mapping):
            return given
        model, fit, optimizer = (_tree(given.get(section)) for section in ("model", "fit", "optimizer"))
        if model is None or fit is None or optimizer is None:
            return given
        if model.get("architecture") is None and fit.get("warm_start") is None:
            model = model | {"architecture": _implied_architecture(model, fit)}
        rate = ARCHITECTURE_RATES.get(str(model.get("architecture")))
        if rate is not None and not {"name", "learning_rate"} & set(optimizer):
            optimizer = optimizer | {"learning_rate": rate}
        return {**given, "model": model, "optimizer": optimizer}

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        problems = list(_impossible_combinations(self))
        if problems:
            raise ConfigurationError(problems)
        return self

    def to_yaml(self) -> str:
        """The configuration as a YAML document that reproduces it, but for the credentials in the address of its store."""
        return yaml.safe_dump(self.public_tree(), sort_keys=False, default_flow_style=None, width=100)

    def to_public_yaml(self) -> str:
        """The same without the directories above the data file: what leaves this machine."""
        tree = self.public_tree(is_path_kept=False)
        return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=100)

    def public_tree(self, is_path_kept: bool = True) -> dict[str, Any]:
        """What may be written down and shown: no user, password or token of an address.

        Args:
            is_path_kept: Whether the directories above the data file belong to it.
        """
        tree = self.model_dump(mode="json")
        if self.tracking.uri is not None:
            tree["tracking"]["uri"] = redact_uri(self.tracking.uri)
        if self.data.path is not None and not is_path_kept:
            tree["data"]["path"] = Path(self.data.path).name
        return tree


def _implied_architecture(model: Mapping[str, Any], fit: Mapping[str, Any]) -> ArchitectureName | None:
    if model.get("segment_length") is not None:
        return "segrnn"
    is_cell_set = any(model.get(key) not in (None, ModelConfig.model_fields[key].default) for key in _OF_A_CELL)
    return "lstm" if is_cell_set or fit.get("tbptt_steps") is not None else None


def _tree(section: Any) -> dict[str, Any] | None:
    """A section's keys as they were written; None where it is none."""
    if isinstance(section, BaseModel):
        return section.model_dump(by_alias=True, exclude_unset=True)
    return dict(section) if isinstance(section, Mapping) else {} if section is None else None


def _possible_losses(head: HeadName) -> tuple[LossName, ...]:
    if head in DISTRIBUTION_NAMES:
        return ("nll",)
    return ("quantile",) if head == "quantile" else ("mae", "mse", "huber", "frequency")


def _impossible_combinations(config: TrainingConfig) -> Iterable[Problem]:
    fit, model, optimizer, data = config.fit, config.model, config.optimizer, config.data
    possible = _possible_losses(model.head)
    if fit.loss != "auto" and fit.loss not in possible:
        heads = [head for head in get_args(HeadName) if fit.loss in _possible_losses(head)]
        message = (
            f"{fit.loss} needs model.head: {' or '.join(heads)}; {model.head} is trained by {', '.join(possible)}."
        )
        yield Problem("config_conflict", "fit.loss", message, "Set fit.loss: auto.")
    yield from _impossible_networks(model)
    if fit.tbptt_steps is not None and model.architecture == "linear":
        yield Problem("config_conflict", "fit.tbptt_steps", "a linear network has no time to truncate.", "Remove it.")
    if optimizer.momentum > 0 and optimizer.name not in ("sgd", "nesterov", "rmsprop"):
        yield Problem(
            "config_conflict",
            "optimizer.momentum",
            f"{optimizer.name} has no momentum option.",
            "Use sgd, nesterov or rmsprop.",
        )
    if optimizer.name == "nesterov" and optimizer.momentum == 0:
        yield Problem(
            "config_conflict",
            "optimizer.momentum",
            "nesterov needs a momentum above 0.",
            "Set optimizer.momentum: 0.9.",
        )
    if optimizer.warmup_steps >= fit.max_steps:
        yield Problem("config_conflict", "optimizer.warmup_steps", "must be smaller than fit.max_steps.", "Lower it.")
    roles: dict[str, str] = {}
    for role in ("futr_exog", "hist_exog", "stat_exog"):
        for column in getattr(data, role):
            if column in roles or column in (data.id_col, data.time_col, data.target_col):
                other = roles.get(column, "id, time or target")
                yield Problem(
                    "config_conflict",
                    f"data.{role}",
                    f"column {column!r} already has the role {other}.",
                    "Name it once.",
                )
            roles[column] = role


def _impossible_networks(model: ModelConfig) -> Iterable[Problem]:
    if model.head in COUNT_HEADS and model.scaler not in COUNT_SCALERS:
        message = f"{model.scaler} moves the zero of the counts that model.head: {model.head} forecasts."
        yield Problem("config_conflict", "model.scaler", message, "Set model.scaler: mean_abs (or none).")
    if model.head in COUNT_HEADS and model.conformal != "none":
        message = f"{model.conformal} shifts quantiles off the whole numbers that model.head: {model.head} forecasts."
        yield Problem("config_conflict", "model.conformal", message, "Set model.conformal: none.")
    if model.decoder == "recursive" and model.architecture not in STEPWISE:
        message = f"recursive reads step by step, which model.architecture: {model.architecture} does not."
        yield Problem("config_conflict", "model.decoder", message, f"Use {', '.join(STEPWISE)}, or decoder: direct.")
    elif model.decoder == "recursive" and model.head not in RECURSIVE_HEADS:
        message = f"recursive draws every step from a distribution, which model.head: {model.head} is not."
        yield Problem("config_conflict", "model.decoder", message, f"Use model.head: {', '.join(RECURSIVE_HEADS)}.")
    yield from _impossible_dilations(model)
    yield from _impossible_parts(model)
    if model.decoder == "recursive" and model.skip == "linear":
        message = "linear hands over a whole horizon, and a recursive decoder makes it step by step."
        yield Problem("config_conflict", "model.skip", message, "Set model.skip: none.")


def _impossible_parts(model: ModelConfig) -> Iterable[Problem]:
    for key in ("linear_share", "linear_length", "recurrent_length"):
        length = getattr(model, key)
        if length and model.architecture != "segrnn":
            message = f"only segrnn has it; model.architecture is {model.architecture or 'left open'}."
            yield Problem("config_conflict", f"model.{key}", message, "Set model.architecture: segrnn, or remove it.")
        elif key != "linear_share" and model.context_length is not None and (length or 0) > model.context_length:
            message = f"must be at most model.context_length, {model.context_length}, but is {length}."
            yield Problem("config_conflict", f"model.{key}", message, "Lower it, or remove it.")
    if model.linear_share and model.head not in SHARED_HEADS:
        message = f"the mean of two forecasts with model.head: {model.head} is no such forecast."
        yield Problem("config_conflict", "model.linear_share", message, f"Use model.head: {' or '.join(SHARED_HEADS)}.")


def _impossible_dilations(model: ModelConfig) -> Iterable[Problem]:
    dilations = model.dilations
    if dilations is None:
        return
    if model.architecture not in DILATED:
        message = f"{model.architecture} has no dilations."
        yield Problem("config_conflict", "model.dilations", message, f"Use {', '.join(DILATED)}, or remove it.")
    elif len(dilations) != model.num_layers:
        message = f"must be one per layer, but are {len(dilations)} for model.num_layers: {model.num_layers}."
        yield Problem("config_conflict", "model.dilations", message, "Set one of the two.")
    longest = max(dilations)
    if model.context_length is not None and longest >= max(model.context_length, 2):
        message = f"{longest} steps back lie before every context of model.context_length: {model.context_length}."
        yield Problem("config_conflict", "model.dilations", message, "Lower them, or raise model.context_length.")


_SECRET_PARAMETER = re.compile(
    r"([?&;](?:password|passwd|pwd|sslpassword|token|api_?key|secret)=)[^&;\s'\"]*", re.IGNORECASE
)


def redact_uri(text: str) -> str:
    """A URI, or a text with URIs in it, without users, passwords and tokens."""
    without_user = re.sub(r"://[^\s/]*@", "://", text)
    return _SECRET_PARAMETER.sub(r"\1***", without_user)


def load_config(
    path: str | Path | None = None, overrides: Iterable[str] = (), flags: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """Resolve a configuration: a flag beats `--set`, `--set` beats the file, the file beats the default.

    Args:
        path: YAML file, or None for defaults.
        overrides: `dotted.key=value` strings; the value is read as YAML.
        flags: Dotted keys to values of command-line flags; None values are skipped.

    Returns:
        The validated configuration.

    Raises:
        ConfigurationError: With every problem found, each with its path.
    """
    tree = _read_yaml(Path(path)) if path is not None else {}
    problems: list[Problem] = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            problems.append(Problem("config_syntax", "--set", f"{override!r} must be dotted.key=value."))
            continue
        try:
            _assign(tree, key.strip(), read_yaml(text) if text else None)
        except (*UNREADABLE_YAML, KeyError):
            problems.append(Problem("config_syntax", f"--set {key}", "must be a dotted key and a YAML value."))
    for key, value in (flags or {}).items():
        if value is not None:
            _assign(tree, key, value)
    if problems:
        raise ConfigurationError(problems)
    return build_config(tree)


def build_config(tree: Mapping[str, Any]) -> TrainingConfig:
    """Validate a nested mapping (a YAML file, a job's body) into a TrainingConfig.

    Raises:
        ConfigurationError: With every problem found, each with its path.
    """
    try:
        return TrainingConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigurationError(
            [_as_problem(detail) for detail in error.errors(include_url=False, include_input=True)]
        ) from None


def _as_problem(detail: Any) -> Problem:
    path = ".".join(str(part) for part in detail["loc"] if part != "tuple[str, ...]") or "configuration"
    if detail["type"] == "extra_forbidden":
        return Problem("config_unknown_key", path, "is not a known key.", _nearest_key(path))
    actual = repr(detail["input"])
    return Problem("config_invalid", path, f"{detail['msg'].removeprefix('Value error, ')} (is {actual[:80]}).")


def _nearest_key(path: str) -> str:
    import difflib

    near = difflib.get_close_matches(path, list(config_keys()), n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else "See gradcast train --print-config for all keys."


def config_keys() -> dict[str, str]:
    """Every dotted key with its description."""
    return {
        f"{section}.{info.alias or key}": (info.description or "").strip()
        for section, section_info in TrainingConfig.model_fields.items()
        for key, info in section_info.annotation.model_fields.items()  # type: ignore[union-attr]
    }


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml_file(path)
    except FileNotFoundError:
        raise ConfigurationError([Problem("config_not_found", str(path), "does not exist.")]) from None
    except (OSError, *UNREADABLE_YAML) as error:
        summary = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(
            [Problem("config_unreadable", str(path), f"must be a YAML file: {summary}.")]
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigurationError(
            [Problem("config_unreadable", str(path), f"must be a mapping, but is a {type(tree).__name__} instead.")]
        )
    return tree


def _assign(tree: dict[str, Any], dotted_key: str, value: Any) -> None:
    *parents, leaf = dotted_key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise KeyError(dotted_key)
        node = child
    node[leaf] = value
