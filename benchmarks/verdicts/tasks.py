"""Learning tasks whose answer is known: what a perfect forecaster would reach, and what one that learns nothing does.

Both errors are measured on the very test rows a run is scored on. The bar between them is all that decides whether a
run has solved its task; nothing in here knows about gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Test targets a run is scored on, at least; enough that the error's own noise stays below a tenth of any bar.
TEST_ROWS = 480
# A forecast that comes within this factor of the best possible one has solved its task, however little there is to gain.
NEAR_BEST = 1.15


@dataclass(frozen=True)
class Series:
    """One series with its answer.

    Attributes:
        y: Target; NaN where it is not observed.
        best: Best forecast of every row from what is known at its forecast origin.
        covariates: Further columns.
    """

    y: Array
    best: Array
    covariates: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One draw of a task.

    Attributes:
        table: Long table: unique_id, ds, y and covariates.
        achievable: Mean absolute error of the best possible forecast on the test rows.
        trivial: That of learning nothing: each series' median, or its last value, whichever is better.
        bar: Errors up to here count as solved.
    """

    table: pd.DataFrame
    achievable: float
    trivial: float
    bar: float


@dataclass(frozen=True)
class Task:
    """A task and the settings it needs from anybody.

    Attributes:
        name: Short name.
        what: One sentence.
        draw: Series from a random generator.
        settings: Data, window and model settings that a decent run of the task uses.
        test_rows: Test rows per series, a multiple of the horizon.
        share: Place of the bar between achievable (0) and trivial (1).
    """

    name: str
    what: str
    draw: Callable[[np.random.Generator], list[Series]]
    settings: dict[str, Any]
    test_rows: int
    share: float = 0.5

    def sample(self, seed: int) -> Sample:
        """Draw data and measure both errors and the bar between them.

        Args:
            seed: Of the draw.
        """
        drawn = self.draw(np.random.default_rng([seed, *self.name.encode()]))
        rows = slice(-self.test_rows, None)
        truth = np.concatenate([series.y[rows] for series in drawn])
        best = np.concatenate([series.best[rows] for series in drawn])
        flat = np.concatenate([np.full(self.test_rows, np.nanmedian(series.y[: -self.test_rows])) for series in drawn])
        last = np.concatenate([_last_value(series.y, self.settings["model.horizon"])[rows] for series in drawn])
        achievable, constant, naive = (float(np.nanmean(np.abs(truth - forecast))) for forecast in (best, flat, last))
        trivial = min(constant, naive)
        bar = max(achievable + self.share * (trivial - achievable), NEAR_BEST * achievable)
        return Sample(_long_table(drawn), achievable, trivial, bar)


def _last_value(y: Array, horizon: int) -> Array:
    """The last observed value before each row's forecast origin; origins lie a horizon apart, counted from the end."""
    filled = pd.Series(y).ffill().to_numpy()
    ahead = (np.arange(len(y)) - len(y)) % horizon + 1
    return np.asarray(filled[np.maximum(np.arange(len(y)) - ahead, 0)])


def _long_table(drawn: list[Series]) -> pd.DataFrame:
    frames = [
        pd.DataFrame({"unique_id": f"s{index:02d}", "ds": np.arange(len(series.y)), "y": series.y, **series.covariates})
        for index, series in enumerate(drawn)
    ]
    return pd.concat(frames, ignore_index=True)


def _recall(lag: int, block: int, num_series: int = 6, num_blocks: int = 80) -> Callable[[np.random.Generator], list[Series]]:
    """A cue of -1 or 1 at the start of every block; what it said is measured `lag` steps later and at no other time."""

    def draw(random: np.random.Generator) -> list[Series]:
        drawn = []
        for _ in range(num_series):
            # Balanced within every quarter, so that no test part is lopsided by chance.
            quarter = np.repeat([-1.0, 1.0], num_blocks // 8)
            cues = np.concatenate([random.permutation(quarter) for _ in range(4)])
            length = block * len(cues)
            x, y, best = np.zeros(length), np.full(length, np.nan), np.zeros(length)
            x[::block], best[lag::block] = cues, cues
            y[lag::block] = cues + 0.05 * random.normal(size=len(cues))
            # A series may not begin with its first measurement missing for long; and a trailing gap would be cut off.
            y[0] = 0.0
            drawn.append(Series(y, best, {"x": x}))
        return drawn

    return draw


def _delay(lag: int, num_rows: int = 3000, noise: float = 0.05) -> Callable[[np.random.Generator], list[Series]]:
    """White x, and y is what x was `lag` steps ago: the network has to be a shift register."""

    def draw(random: np.random.Generator) -> list[Series]:
        x = random.normal(size=num_rows + lag)
        best = x[:num_rows]
        return [Series(best + noise * random.normal(size=num_rows), best, {"x": x[lag:]})]

    return draw


def _product(near: int, far: int, num_rows: int = 3000) -> Callable[[np.random.Generator], list[Series]]:
    """y is the product of two earlier signs of x, uncorrelated with either: no linear model sees anything."""

    def draw(random: np.random.Generator) -> list[Series]:
        x = random.choice([-1.0, 1.0], num_rows + far)
        best = x[:num_rows] * x[far - near : far - near + num_rows]
        return [Series(best + 0.05 * random.normal(size=num_rows), best, {"x": x[far:]})]

    return draw


def _autoregressive(
    memory: float, horizon: int, degrees: float | None = None, spikes: float = 0.0, num_rows: int = 3000
) -> Callable[[np.random.Generator], list[Series]]:
    """First order, with normal or Student t noise, and rare additive spikes of 30 standard deviations."""

    def draw(random: np.random.Generator) -> list[Series]:
        noise = random.normal(size=num_rows) if degrees is None else random.standard_t(degrees, num_rows)
        state = np.zeros(num_rows)
        for row in range(1, num_rows):
            state[row] = memory * state[row - 1] + noise[row]
        # Forecast origins lie a horizon apart, counted from the end.
        ahead = (np.arange(num_rows) - num_rows) % horizon + 1
        origin = np.arange(num_rows) - ahead
        best = memory**ahead * state[np.maximum(origin, 0)]
        jumps = np.where(random.random(num_rows) < spikes, 30.0 * random.choice([-1.0, 1.0], num_rows), 0.0)
        return [Series(state + jumps, best)]

    return draw


def _logistic(rate: float = 3.9, num_rows: int = 3000) -> Callable[[np.random.Generator], list[Series]]:
    """The logistic map: one step ahead is a parabola, many steps ahead are nothing anybody can forecast."""

    def draw(random: np.random.Generator) -> list[Series]:
        y = np.empty(num_rows)
        y[0] = random.uniform(0.2, 0.8)
        for row in range(1, num_rows):
            y[row] = rate * y[row - 1] * (1.0 - y[row - 1])
        return [Series(y, y.copy())]

    return draw


def _seasonal(
    season: int, noise: float, levels: tuple[float, ...] = (0.0,), trend: float = 0.0, num_rows: int = 1200
) -> Callable[[np.random.Generator], list[Series]]:
    """Two harmonics with a random phase around each level; spread a tenth of the level, or 1 around 0."""

    def draw(random: np.random.Generator) -> list[Series]:
        drawn = []
        for level in levels:
            time = np.arange(num_rows)
            phase = 2 * np.pi * (time / season + random.random())
            size = 0.1 * level or 1.0
            best = level + size * (np.sin(phase) + 0.5 * np.sin(2 * phase + 1.0) + trend * time / num_rows)
            drawn.append(Series(best + size * noise * random.normal(size=num_rows), best))
        return drawn

    return draw


def _square(season: int, num_series: int = 4, num_rows: int = 1440) -> Callable[[np.random.Generator], list[Series]]:
    """On for half a season, off for the other half: when it switches depends on when it switched last."""

    def draw(random: np.random.Generator) -> list[Series]:
        drawn = []
        for _ in range(num_series):
            best = np.where((np.arange(num_rows) + random.integers(season)) % season < season // 2, 1.0, -1.0)
            drawn.append(Series(best + 0.1 * random.normal(size=num_rows), best))
        return drawn

    return draw


def _regression(num_inputs: int, num_rows: int) -> Callable[[np.random.Generator], list[Series]]:
    """y follows the last value of one of many inputs, among noise: few rows are easily learned by heart."""

    def draw(random: np.random.Generator) -> list[Series]:
        inputs = random.normal(size=(num_inputs, num_rows))
        best = np.concatenate(([0.0], inputs[0, :-1]))
        y = best + 0.8 * random.normal(size=num_rows)
        return [Series(y, best, {f"x{index}": column for index, column in enumerate(inputs)})]

    return draw


def _recall_task(lag: int, block: int, horizon: int, context: int, declared: bool) -> Task:
    blocks = 20
    settings = {
        "data.hist_exog": ["x"], "data.val_size": blocks * block, "model.horizon": horizon, "model.context_length": context,
        "model.scaler": "none",
    }  # fmt: skip
    if declared:
        settings["gradients.need_steps"] = lag
    what = f"a cue is measured {lag} steps later, and nothing in between tells it"
    return Task(f"recall{lag}", what, _recall(lag, block), settings, blocks * block)


def _plain(horizon: int, context: int = 32, **data: Any) -> dict[str, Any]:
    return {"model.horizon": horizon, "model.context_length": context, "data.val_size": TEST_ROWS} | {
        f"data.{key}": value for key, value in data.items()
    }


_INPUT: dict[str, Any] = {"hist_exog": ["x"]}
_ALL = (
    _recall_task(16, 24, 8, 24, declared=False),
    _recall_task(24, 36, 12, 32, declared=False),
    _recall_task(32, 48, 16, 40, declared=True),
    _recall_task(48, 64, 16, 56, declared=True),
    Task("delay4", "y repeats white x after 4 steps", _delay(4), _plain(1, **_INPUT), TEST_ROWS),
    Task("delay8", "y repeats white x after 8 steps", _delay(8), _plain(1, **_INPUT), TEST_ROWS),
    Task(
        "product", "y is the product of x 2 and 5 steps ago", _product(2, 5),
        _plain(1, **_INPUT) | {"gradients.need_steps": 5}, TEST_ROWS,
    ),
    Task("short_memory", "first-order autoregression", _autoregressive(0.8, 2), _plain(2), TEST_ROWS),
    Task("white_noise", "nothing to learn", _autoregressive(0.0, 2), _plain(2), TEST_ROWS),
    Task("chaos", "logistic map, one step ahead", _logistic(), _plain(1, 16), TEST_ROWS),
    Task(
        "heavy_tails", "autoregression with Student t noise of two degrees of freedom", _autoregressive(0.9, 1, degrees=2.0),
        _plain(1), TEST_ROWS,
    ),
    Task("spikes", "autoregression with rare spikes", _autoregressive(0.9, 1, spikes=0.004), _plain(1), TEST_ROWS),
    Task("season12", "season of 12 steps, no calendar", _seasonal(12, 0.05), _plain(12, 24, season_length=12), TEST_ROWS),
    Task(
        "square48", "on and off for 24 steps each, no calendar", _square(48),
        _plain(24, 56, season_length=48) | {"data.val_size": 240}, 240,
    ),
    Task(
        "high_level", "season of 12 around a level of ten thousand", _seasonal(12, 0.05, (1e4,)),
        _plain(12, 24, season_length=12), TEST_ROWS,
    ),
    Task(
        "tiny_level", "season of 12 around a level of one in ten thousand", _seasonal(12, 0.05, (1e-4,)),
        _plain(12, 24, season_length=12), TEST_ROWS,
    ),
    Task(
        "many_levels", "season of 12 and a trend around levels from one to a hundred thousand",
        _seasonal(12, 0.05, (1.0, 30.0, 1e3, 3e4, 1e5), trend=0.5, num_rows=720), _plain(12, 24, season_length=12)
        | {"data.val_size": 120}, 120,
    ),
    Task(
        "few_rows", "one of eight inputs matters, among noise, in 120 training rows", _regression(8, 820),
        _plain(1, 8, hist_exog=[f"x{index}" for index in range(8)]) | {"data.val_size": 220, "model.scaler": "none"},
        TEST_ROWS,
    ),
    Task(
        "few_noise", "nothing to learn, in 100 training rows", _autoregressive(0.0, 1, num_rows=800),
        _plain(1, 12) | {"data.val_size": 220, "model.scaler": "none"}, TEST_ROWS,
    ),
)  # fmt: skip
TASKS = {task.name: task for task in _ALL}
