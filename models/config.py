"""One frozen description per architecture; `architecture` tells them apart in a bundle."""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

ScalerName = Literal["standard", "mean_abs", "robust", "last", "offset", "revin", "none"]
InitializationName = Literal["torch", "orthogonal", "forget_bias", "chrono", "identity"]
ConformalName = Literal["none", "split"]
DistributionName = Literal["normal", "student_t", "negative_binomial", "poisson"]
HeadName = Literal["point", "quantile", "normal", "student_t", "negative_binomial", "poisson"]
DISTRIBUTION_NAMES: tuple[DistributionName, ...] = get_args(DistributionName)
# Counts have no negative values, and zero must stay zero: only a scale may be taken from them.
COUNT_HEADS: tuple[HeadName, ...] = ("negative_binomial", "poisson")
COUNT_SCALERS: tuple[ScalerName, ...] = ("mean_abs", "none")
DecoderName = Literal["direct", "recursive"]
SkipName = Literal["none", "linear"]
CellName = Literal["rnn", "gru", "lstm", "mingru", "minlstm"]
# Cells without a matrix from state to state.
MINIMAL_CELLS: tuple[CellName, ...] = ("mingru", "minlstm")
# What a step can be followed by: a draw, or the point itself.
RECURSIVE_HEADS: tuple[HeadName, ...] = ("point", *DISTRIBUTION_NAMES)
# Means of two forecasts with these are forecasts of the same kind; a mean of two distributions' parameters is not their mixture.
SHARED_HEADS: tuple[HeadName, ...] = ("point", "quantile")
DEFAULT_PATHS, MAX_PATHS = 100, 10_000
MAX_QUANTILE_LEVELS = 99
MAX_SERIES_EMBEDDING = 1024


def usual_scaler(head: HeadName) -> ScalerName:
    """The scaler that a network with this head usually learns best with."""
    return "mean_abs" if head in COUNT_HEADS else "standard"


class NetworkConfig(BaseModel):
    """What every network has: its window, its columns, its scaling and its output.

    Attributes:
        context_length: Past steps the network sees (L).
        horizon: Future steps it forecasts (H).
        num_past_covariates: Channels known over the context (P), the known-future ones first.
        num_future_covariates: Channels known over context and horizon (F).
        num_static_covariates: Channels constant over a series (S), the number of the series last if it has a vector.
        series_embedding: Length of the learned vector per series (E); 0 for none.
        num_series: Series that have one (N).
        scaler: Per-window scaling of `y`.
        head: `point` forecasts one value a step, `quantile` one per level, the others the parameters of a distribution.
        quantile_levels: Increasing probabilities in (0, 1); the levels of every forecast but the point head's, and of
            conformal calibration.
        conformal: `split` shifts every quantile, step by step, by what held-out errors ask for; see `models.conformal`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    context_length: int = Field(ge=1, le=100_000)
    horizon: int = Field(ge=1, le=100_000)
    num_past_covariates: int = Field(default=0, ge=0, le=10_000)
    num_future_covariates: int = Field(default=0, ge=0, le=10_000)
    num_static_covariates: int = Field(default=0, ge=0, le=10_000)
    series_embedding: int = Field(default=0, ge=0, le=MAX_SERIES_EMBEDDING)
    num_series: int = Field(default=0, ge=0, lt=2**24)  # whole numbers that float32 holds
    scaler: ScalerName = "standard"
    head: HeadName = "quantile"
    quantile_levels: tuple[float, ...] = Field(default=(0.1, 0.25, 0.5, 0.75, 0.9), max_length=MAX_QUANTILE_LEVELS)
    conformal: ConformalName = "none"

    @model_validator(mode="after")
    def _levels_increase(self) -> Self:
        levels = self.quantile_levels
        if (self.head != "point" or self.conformal != "none") and not levels:
            raise ValueError(f"quantile_levels must name at least one level for the {self.head} head or conformal intervals")
        if any(not 0.0 < level < 1.0 for level in levels) or any(a >= b for a, b in itertools.pairwise(levels)):
            raise ValueError("quantile_levels must be increasing and lie strictly between 0 and 1")
        if self.num_past_covariates < self.num_future_covariates:
            raise ValueError("num_past_covariates must count the known-future covariates too")
        return self

    @model_validator(mode="after")
    def _vectors_have_series(self) -> Self:
        if bool(self.series_embedding) != bool(self.num_series) or self.num_static_covariates < bool(self.num_series):
            raise ValueError("series_embedding, num_series and the static channel of the number must come together")
        return self

    @model_validator(mode="after")
    def _counts_stay_counts(self) -> Self:
        if self.head in COUNT_HEADS and self.scaler not in COUNT_SCALERS:
            raise ValueError(f"scaler must be {' or '.join(COUNT_SCALERS)} for the {self.head} head: zero stays zero")
        if self.head in COUNT_HEADS and self.conformal != "none":
            raise ValueError(f"conformal must be none for the {self.head} head: a shift would leave the whole numbers")
        return self

    @property
    def recurrent_steps(self) -> int:
        """The newest context steps: those that the recurrence, if there is one, and the scaler look at."""
        return self.context_length

    @property
    def num_static_channels(self) -> int:
        """Static channels that the network proper reads: the vector of a series in the place of its number."""
        return self.num_static_covariates - bool(self.num_series) + self.series_embedding

    @property
    def num_step_channels(self) -> int:
        """Channels of a context step: scaled y, whether it was observed, past and static channels."""
        return 2 + self.num_past_covariates + self.num_static_channels

    @property
    def num_horizon_channels(self) -> int:
        """Channels known for a horizon step: future and static ones."""
        return self.num_future_covariates + self.num_static_channels

    @property
    def network_levels(self) -> tuple[float, ...]:
        """Levels the network itself puts out; the point head is the median (the minimiser of absolute error)."""
        return (0.5,) if self.head == "point" else self.quantile_levels

    @property
    def output_levels(self) -> tuple[float, ...]:
        """Levels along Q of the forecast: conformal calibration gives a point quantiles too."""
        return self.quantile_levels if self.conformal != "none" else self.network_levels


class LinearConfig(NetworkConfig):
    """A linear map from the scaled window to the horizon: the floor every recurrent network must beat."""

    architecture: Literal["linear"] = "linear"


class RecurrentConfig(NetworkConfig):
    """What the recurrent architectures share.

    Attributes:
        hidden_size: Units per layer (D).
        num_layers: Depth of the stack.
        dropout: Share of units dropped between layers and before the decoder.
        initialization: How the recurrent weights and biases start; see `models.initialization`.
        forget_bias: Total bias of the forget (GRU: update) gate at the start, overriding the initialization.
        init_gain: Factor on the recurrent matrices at the start.
        decoder: How the final state becomes a horizon: `direct`, all steps at once; `recursive`, one after another.
        num_paths: Sampled paths that the quantiles of a recursive decoder rest on.
        skip: What goes from the window straight to the decoder, past the recurrence; see `models.skip`.
        cell: Kind of the recurrent layers, and their name in reports.
    """

    hidden_size: int = Field(default=64, ge=1, le=16_384)
    num_layers: int = Field(default=1, ge=1, le=64)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    initialization: InitializationName = "torch"
    forget_bias: float | None = None
    init_gain: float | None = Field(default=None, gt=0.0)
    decoder: DecoderName = "direct"
    num_paths: int = Field(default=DEFAULT_PATHS, ge=1, le=MAX_PATHS)
    skip: SkipName = "none"
    cell: ClassVar[CellName]

    @model_validator(mode="after")
    def _paths_are_drawn_from_distributions(self) -> Self:
        if self.decoder == "recursive" and self.head not in RECURSIVE_HEADS:
            raise ValueError(f"head must be {' or '.join(RECURSIVE_HEADS)} for the recursive decoder: it draws from it")
        if self.decoder == "recursive" and self.skip != "none":
            raise ValueError("skip must be none for the recursive decoder: it makes the horizon step by step")
        return self

    @property
    def steps_per_update(self) -> int:
        """Context steps that one update of the recurrent state reads."""
        return 1

    @property
    def num_updates(self) -> int:
        """Updates of the recurrent state over a context."""
        return -(-self.recurrent_steps // self.steps_per_update)

    @property
    def layer_dilations(self) -> tuple[int, ...]:
        """Per layer, the updates between a state and the next that follows from it."""
        return (1,) * self.num_layers


class RNNConfig(RecurrentConfig):
    """Elman network."""

    architecture: Literal["rnn"] = "rnn"
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    cell: ClassVar[CellName] = "rnn"


class GRUConfig(RecurrentConfig):
    """Gated recurrent unit (Cho et al. 2014, 1406.1078)."""

    architecture: Literal["gru"] = "gru"
    cell: ClassVar[CellName] = "gru"


class LSTMConfig(RecurrentConfig):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000)."""

    architecture: Literal["lstm"] = "lstm"
    cell: ClassVar[CellName] = "lstm"


class MinGRUConfig(RecurrentConfig):
    """Minimal GRU, all steps at once (Feng et al. 2024, 2410.01201)."""

    architecture: Literal["mingru"] = "mingru"
    cell: ClassVar[CellName] = "mingru"


class MinLSTMConfig(RecurrentConfig):
    """Minimal LSTM, all steps at once (Feng et al. 2024, 2410.01201)."""

    architecture: Literal["minlstm"] = "minlstm"
    cell: ClassVar[CellName] = "minlstm"


class DilatedConfig(RecurrentConfig):
    """What the dilated recurrent networks share (Chang et al. 2017, 1710.02224).

    Attributes:
        dilations: Per layer, from the input on, the steps between a state and the next that follows from it.
    """

    dilations: tuple[int, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _dilations_fit(self) -> Self:
        if len(self.dilations) != self.num_layers:
            raise ValueError(f"dilations must be one per layer, {self.num_layers}, but are {len(self.dilations)}")
        longest = max(self.context_length - 1, 1)
        if not all(1 <= dilation <= longest for dilation in self.dilations):
            raise ValueError(f"dilations must lie between 1 and {longest}, one less than the context")
        return self

    @property
    def layer_dilations(self) -> tuple[int, ...]:
        """As configured."""
        return self.dilations


class DilatedRNNConfig(DilatedConfig):
    """Dilated Elman network."""

    architecture: Literal["dilated_rnn"] = "dilated_rnn"
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    cell: ClassVar[CellName] = "rnn"


class DilatedGRUConfig(DilatedConfig):
    """Dilated gated recurrent unit."""

    architecture: Literal["dilated_gru"] = "dilated_gru"
    cell: ClassVar[CellName] = "gru"


class DilatedLSTMConfig(DilatedConfig):
    """Dilated long short-term memory."""

    architecture: Literal["dilated_lstm"] = "dilated_lstm"
    cell: ClassVar[CellName] = "lstm"


class SegRNNConfig(RecurrentConfig):
    """Segment recurrent network (Lin et al. 2023, 2308.11200): a GRU that takes a whole segment per update.

    Attributes:
        segment_length: Steps per segment, of context and horizon alike.
        linear_share: Share of the forecast that a linear map has; the recurrence has the rest.
        linear_length: The newest steps of the context, those that the linear map reads; None = all.
        recurrent_length: The same for the recurrence.
    """

    architecture: Literal["segrnn"] = "segrnn"
    segment_length: int = Field(default=24, ge=1, le=100_000)
    linear_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    linear_length: int | None = Field(default=None, ge=1)
    recurrent_length: int | None = Field(default=None, ge=1)
    decoder: Literal["direct"] = "direct"
    cell: ClassVar[CellName] = "gru"

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.linear_share and self.head not in SHARED_HEADS:
            raise ValueError(f"head must be {' or '.join(SHARED_HEADS)} with a linear_share: it is a mean of forecasts")
        if max(self.recurrent_steps, self.linear_steps) > self.context_length:
            raise ValueError(f"recurrent_length and linear_length must be at most the context_length, {self.context_length}")
        return self

    @property
    def recurrent_steps(self) -> int:
        """As configured, or the whole context."""
        return self.context_length if self.recurrent_length is None else self.recurrent_length

    @property
    def linear_steps(self) -> int:
        """As configured, or the whole context."""
        return self.context_length if self.linear_length is None else self.linear_length

    @property
    def steps_per_update(self) -> int:
        """A segment."""
        return self.segment_length

    @property
    def num_output_segments(self) -> int:
        """Segments that cover the horizon."""
        return -(-self.horizon // self.segment_length)


AnyDilatedConfig = DilatedRNNConfig | DilatedGRUConfig | DilatedLSTMConfig
StepwiseConfig = RNNConfig | GRUConfig | LSTMConfig | MinGRUConfig | MinLSTMConfig | AnyDilatedConfig
SomeNetworkConfig = LinearConfig | StepwiseConfig | SegRNNConfig
AnyNetworkConfig = Annotated[SomeNetworkConfig, Field(discriminator="architecture")]
NETWORK_CONFIG_ADAPTER: TypeAdapter[SomeNetworkConfig] = TypeAdapter(AnyNetworkConfig)
