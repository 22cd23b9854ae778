"""The configurations: each a task and what differs from decent settings. None says whether it is a fault.

Half of them are meant as look-alikes, whose gradients are small, large, short or spiky for good reasons. Whether a case
is healthy or faulty is decided by what its runs reach (`labels.py`), not by what was meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks import TASKS, Task

SEEDS = (0, 1, 2)

# What every case starts from; the task's settings and then the case's own come on top.
DECENT: dict[str, Any] = {
    "data.calendar": "none",
    "data.freq": "1",
    "data.season_length": 1,
    "data.futr_exog": [],
    "data.hist_exog": [],
    "model.architecture": "lstm",
    "model.initialization": "forget_bias",
    "model.forget_bias": None,
    "model.init_gain": None,
    "model.nonlinearity": "tanh",
    "model.hidden_size": 32,
    "model.num_layers": 1,
    "model.dropout": 0.0,
    "model.scaler": "standard",
    "model.head": "point",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 3e-3,
    "optimizer.momentum": 0.0,
    "optimizer.weight_decay": 0.0,
    "fit.batch_size": 32,
    "fit.max_steps": 400,
    "fit.max_grad_norm": 1.0,
    "fit.val_check_steps": 50,
    "fit.patience": None,
    "fit.tbptt_steps": None,
    "fit.num_threads": 1,
    "gradients.preset": "economy",
    "tracking.register": False,
}


@dataclass(frozen=True)
class Case:
    """One configuration.

    Attributes:
        name: Unique.
        task: Its task.
        changed: What differs from decent settings.
        note: What the case is there for.
    """

    name: str
    task: Task
    changed: dict[str, Any]
    note: str

    @property
    def settings(self) -> dict[str, Any]:
        """All keys that are set, without the data file and the seed."""
        return DECENT | {"data.test_size": self.task.test_rows} | self.task.settings | self.changed


def _case(name: str, task: str, note: str, **changed: Any) -> Case:
    keys = {key.replace("__", "."): value for key, value in changed.items()}
    return Case(name, TASKS[task], keys, note)


_RNN = {"model__architecture": "rnn"}
_CHRONO = {"model__initialization": "chrono"}
_TORCH = {"model__initialization": "torch"}
_ORTHOGONAL = {"model__initialization": "orthogonal"}

_LOOK_ALIKES = (
    _case("recall16-chrono", "recall16", "long memory from the start", **_CHRONO),
    _case("recall24-chrono", "recall24", "long memory from the start", **_CHRONO),
    _case("recall32-chrono", "recall32", "long memory from the start", **_CHRONO),
    _case("recall24-rnn", "recall24", "a plain rnn with an orthogonal start reaches as well", **_RNN, **_ORTHOGONAL),
    _case("recall24-rnn-torch", "recall24", "an rnn that begins with short memory and learns a longer one", **_RNN, **_TORCH),
    _case("recall32-gru-torch", "recall32", "a GRU that begins with short memory and learns a longer one",
          model__architecture="gru", **_TORCH),
    _case("recall32-gru", "recall32", "long memory in a GRU", model__architecture="gru", **_CHRONO),
    _case("delay4-rnn", "delay4", "short delay, short memory suffices", **_RNN, **_ORTHOGONAL),
    _case("product-rnn", "product", "declared need, nonlinear", **_RNN, **_ORTHOGONAL),
    _case("short-memory-torch", "short_memory", "reach of a few steps is right", **_TORCH),
    _case("short-memory-rnn", "short_memory", "reach of a few steps is right, tanh rnn", **_RNN, **_TORCH),
    _case("short-memory-long-context", "short_memory", "gradient at lag 96 is gone, and nobody needs it",
          model__context_length=96, **_TORCH),
    _case("white-noise", "white_noise", "nothing to learn, gradients are noise"),
    _case("white-noise-rnn", "white_noise", "nothing to learn, vanishing rnn", **_RNN, **_TORCH),
    _case("chaos", "chaos", "positive Lyapunov exponent is right"),
    _case("chaos-rnn", "chaos", "positive Lyapunov exponent is right, rnn", **_RNN, **_ORTHOGONAL),
    _case("converged", "season12", "trained far past convergence: small gradients are right", fit__max_steps=900),
    _case("converged-decayed", "season12", "rate decayed to nothing", fit__max_steps=700, optimizer__schedule="cosine"),
    _case("heavy-tails", "heavy_tails", "gradient spikes from the data"),
    _case("heavy-tails-unclipped", "heavy_tails", "gradient spikes from the data, unclipped", fit__max_grad_norm=None),
    _case("spikes", "spikes", "rare spikes in the data"),
    _case("spikes-mse", "spikes", "rare spikes in the data, squared loss", fit__loss="mse"),
    _case("season-sgd", "season12", "plain SGD with momentum at a high rate", optimizer__name="sgd",
          optimizer__learning_rate=0.1, optimizer__momentum=0.9),
    _case("season-rmsprop", "season12", "RMSprop", optimizer__name="rmsprop", optimizer__learning_rate=1e-3),
    _case("season-high-rate-warmup", "season12", "high rate, constant, with warm-up", optimizer__schedule="constant",
          optimizer__learning_rate=0.01, optimizer__warmup_steps=50),
    _case("square-lstm", "square48", "season of 48 without calendar"),
    _case("square-truncated", "square48", "truncated backpropagation that still suffices", fit__tbptt_steps=30),
    _case("product-truncated", "product", "truncated before the declared need, and learned all the same", fit__tbptt_steps=1,
          **_RNN, **_ORTHOGONAL),
    _case("levels-scaled", "many_levels", "levels far apart, scaled per window"),
    _case("high-level-robust", "high_level", "robust scaling", model__scaler="robust"),
    _case("season-relu", "season12", "ReLU rnn from the identity", model__nonlinearity="relu",
          model__initialization="identity", **_RNN),
    _case("few-rows", "few_rows", "learns 120 rows by heart, and still forecasts", model__hidden_size=64,
          optimizer__learning_rate=0.01),
    _case("season-two-layers", "season12", "two layers", model__num_layers=2),
)  # fmt: skip

_SINGLE_FAULTS = (
    _case("recall48-rnn-torch", "recall48", "rnn that forgets", **_RNN, **_TORCH),
    _case("recall32-lstm-torch", "recall32", "LSTM with a forget bias of 0", **_TORCH),
    _case("recall48-lstm-torch", "recall48", "LSTM with a forget bias of 0", **_TORCH),
    _case("recall48-gru-torch", "recall48", "GRU with an update bias of 0", model__architecture="gru", **_TORCH),
    _case("recall24-shut-gates", "recall24", "forget gates shut", model__forget_bias=-3.0),
    _case("recall32-shut-gates", "recall32", "forget gates shut", model__forget_bias=-3.0),
    _case("recall48-weak-rnn", "recall48", "orthogonal start shrunk to a tenth", model__init_gain=0.1, **_RNN, **_ORTHOGONAL),
    _case("delay8-short-context", "delay8", "context shorter than the delay", model__context_length=6, **_RNN, **_ORTHOGONAL),
    _case("delay8-truncated", "delay8", "truncated before the delay", fit__tbptt_steps=4, **_RNN, **_ORTHOGONAL),
    _case("product-short-context", "product", "context shorter than the declared need", model__context_length=4,
          **_RNN, **_ORTHOGONAL),
    _case("square-short-context", "square48", "context a sixth of the season", model__context_length=8),
    _case("season-tiny-rate", "season12", "rate of 1e-7", optimizer__learning_rate=1e-7),
    _case("short-memory-tiny-rate", "short_memory", "rate of 1e-6", optimizer__learning_rate=1e-6),
    _case("season-sgd-tiny-rate", "season12", "plain SGD at a rate for Adam", optimizer__name="sgd",
          optimizer__learning_rate=1e-3),
    _case("season-sgd-huge-rate", "season12", "SGD at 3 with momentum, constant", optimizer__name="sgd",
          optimizer__learning_rate=3.0, optimizer__momentum=0.9, optimizer__schedule="constant"),
    _case("season-adam-huge-rate", "season12", "Adam at 1, constant", optimizer__name="adam", optimizer__learning_rate=1.0,
          optimizer__schedule="constant"),
    _case("chaos-adam-huge-rate", "chaos", "Adam at 1, constant", optimizer__name="adam", optimizer__learning_rate=1.0,
          optimizer__schedule="constant"),
    _case("square-adamw-huge-rate", "square48", "AdamW at 2, constant", optimizer__learning_rate=2.0,
          optimizer__schedule="constant"),
    _case("season-strangled", "season12", "clipped at a millionth, SGD", optimizer__name="sgd",
          optimizer__learning_rate=0.1, fit__max_grad_norm=1e-6),
    _case("high-level-unscaled", "high_level", "values of ten thousand, unscaled", model__scaler="none"),
    _case("tiny-level-unscaled", "tiny_level", "values of one in ten thousand, unscaled", model__scaler="none"),
    _case("levels-unscaled", "many_levels", "levels far apart, unscaled", model__scaler="none"),
    _case("season-exploding-relu", "season12", "ReLU rnn, orthogonal stretched by 4, SGD", model__nonlinearity="relu",
          model__init_gain=4.0, fit__max_grad_norm=None, optimizer__name="sgd", optimizer__learning_rate=0.05,
          **_RNN, **_ORTHOGONAL),
    _case("square-exploding-relu", "square48", "ReLU rnn, identity stretched by 1.6", model__nonlinearity="relu",
          model__initialization="identity", model__init_gain=1.6, **_RNN),
    _case("delay4-exploding-rnn", "delay4", "tanh rnn, orthogonal stretched by 4", model__init_gain=4.0, **_RNN, **_ORTHOGONAL),
    _case("square-saturated-rnn", "square48", "tanh rnn, orthogonal stretched by 6", model__init_gain=6.0, **_RNN,
          **_ORTHOGONAL),
    _case("product-deep", "product", "eight layers of rnn", model__num_layers=8, model__hidden_size=16,
          model__context_length=16, **_RNN, **_TORCH),
    _case("few-noise-overfit", "few_noise", "a large network learns noise by heart, checked at the end",
          model__hidden_size=128, optimizer__learning_rate=0.01, fit__val_check_steps=400, fit__loss="mse"),
    _case("product-hasty", "product", "a tenth of the steps", fit__max_steps=40, **_RNN, **_ORTHOGONAL),
    _case("levels-overflow", "many_levels", "unscaled, squared loss, unclipped SGD", model__scaler="none", fit__loss="mse",
          optimizer__name="sgd", optimizer__learning_rate=0.1, fit__max_grad_norm=None),
)  # fmt: skip
CASES = {case.name: case for case in (*_LOOK_ALIKES, *_SINGLE_FAULTS)}
