"""Windows, splits and fills for arbitrary panels, against slow references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from models.columns import Columns
from training.config import DataConfig
from training.data.panel import Panel, build_panel
from training.data.splits import build_splits
from training.data.tables import CovariateTables
from training.data.windows import TrainingWindows, WindowBatch, WindowStore, covariate_statistics, validation_cutoffs
from training.errors import DataError

COLUMNS = Columns(
    futr_exog=("f", "w"),
    hist_exog=("h",),
    categories={"w": ("u", "v")},
    calendar=("hour_of_day_sin", "day_of_week_cos"),
)
FILL = np.array([0.25, 0.0, 0.0, -0.5], np.float32)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@dataclass
class Sample:
    frame: pd.DataFrame
    panel: Panel
    context_length: int
    horizon: int


def random_frame(seed: int, lengths: list[int], missing: float) -> pd.DataFrame:
    """Hourly series of different starts with absent rows, empty targets and covariates with holes."""
    random = np.random.default_rng(seed)
    parts = []
    for number, length in enumerate(lengths):
        start = pd.Timestamp("2020-01-01") + pd.Timedelta(hours=int(random.integers(0, 50)), minutes=30 * (number % 2))
        part = pd.DataFrame({"unique_id": f"s{number}", "ds": pd.date_range(start, periods=length, freq="h")})
        part["y"] = random.normal(size=length).astype(np.float32)
        part["f"], part["h"] = (
            random.normal(size=length).astype(np.float32),
            random.normal(size=length).astype(np.float32),
        )
        part["w"] = random.choice(["u", "v", "new"], length)
        for column in ("y", "f", "h", "w"):
            part.loc[random.random(length) < missing, column] = None
        part = part[random.random(length) >= missing / 2]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def build(frame: pd.DataFrame, fill: str = "mask", horizon: int = 0) -> Panel:
    return build_panel(frame, DataConfig(freq="h", fill=fill), COLUMNS, horizon, covariate_fill=FILL)


@st.composite
def samples(draw: st.DrawFn, fills: tuple[str, ...] = ("mask", "ffill", "linear", "zero")) -> Sample:
    lengths = draw(st.lists(st.integers(2, 30), min_size=1, max_size=4))
    frame = random_frame(draw(st.integers(0, 10**6)), lengths, draw(st.sampled_from([0.0, 0.1, 0.4])))
    assume(len(frame) and frame["y"].notna().any())
    context_length, horizon = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    panel = build(frame, draw(st.sampled_from(fills)), draw(st.sampled_from([0, 3])))
    return Sample(frame, panel, context_length, horizon)


def slow_window(panel: Panel, series: int, cutoff: int, context_length: int, horizon: int) -> dict[str, np.ndarray]:
    """One window, written out row by row."""
    start, length = int(panel.offsets[series]), int(panel.lengths[series])
    split = panel.num_future_channels
    panel = panel.extended(horizon)
    context, shown, past = [], [], []
    for position in range(cutoff - context_length, cutoff):
        inside = position >= 0
        row = start + max(position, 0)
        guessed = panel.filled is not None and bool(panel.filled[row])
        value = panel.values[row]
        if inside and guessed and panel.fill == "linear":
            later = [p for p in range(position, cutoff) if panel.observed[start + p]]
            earlier = [p for p in range(position) if panel.observed[start + p]]
            value = value if later else panel.values[start + earlier[-1]]
        context.append(value if inside else 0)
        shown.append(inside and (bool(panel.observed[row]) or guessed))
        calendar = panel.calendar[panel.calendar_start[series] + max(position, 0)]
        # The known future of a window that begins past the end cannot occur: cutoffs end at the length.
        covariates = panel.covariates[start + min(max(position, 0), length - 1)]
        past.append(np.concatenate([covariates[:split], calendar, covariates[split:]]))
    target, mask, future = [], [], []
    for position in range(cutoff, cutoff + horizon):
        inside = position < length
        row = start + min(position, length - 1)
        real = inside and bool(panel.observed[row])
        target.append(panel.values[row] if inside and (real or panel.filled is None) else 0)
        mask.append(real)
        extra = panel.future_extra[series]
        beyond = position - length
        if inside:
            known = panel.covariates[row, :split]
        elif len(extra):
            known = extra[min(beyond, len(extra) - 1)]
        else:
            known = panel.covariates[start + length - 1, :split]
        future.append(np.concatenate([known, panel.calendar[panel.calendar_start[series] + position]]))
    return {
        "context": np.array(context),
        "shown": np.array(shown),
        "past": np.array(past),
        "target": np.array(target),
        "mask": np.array(mask),
        "future": np.array(future),
    }


def assert_window(batch: WindowBatch, index: int, expected: dict[str, np.ndarray]) -> None:
    inputs = batch.inputs
    found = {
        "context": inputs.context,
        "shown": inputs.observed_mask,
        "past": inputs.past_covariates,
        "future": inputs.future_covariates,
        "target": batch.target,
        "mask": batch.target_mask,
    }
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor[index].numpy(), expected[name], err_msg=name)


@quick
@given(samples(), st.data())
def test_gather_equals_a_row_by_row_reference(sample: Sample, data: st.DataObject) -> None:
    """Context, masks, covariates and targets of any batch are those that a loop over rows collects."""
    panel = sample.panel
    store = WindowStore(panel, sample.context_length, sample.horizon)
    series = data.draw(st.lists(st.integers(0, panel.num_series - 1), min_size=1, max_size=6))
    cutoff = [data.draw(st.integers(0, int(panel.lengths[i]))) for i in series]
    batch = store.gather(torch.tensor(series), torch.tensor(cutoff))
    for index, (i, c) in enumerate(zip(series, cutoff, strict=True)):
        assert_window(batch, index, slow_window(panel, i, c, sample.context_length, sample.horizon))


@quick
@given(samples())
def test_batch_equals_single_windows(sample: Sample) -> None:
    """A window does not depend on its neighbours in the batch: inside and edge windows take different roads to one result."""
    panel = sample.panel
    store = WindowStore(panel, sample.context_length, sample.horizon)
    pairs = [(i, c) for i in range(panel.num_series) for c in range(int(panel.lengths[i]) + 1)]
    series, cutoff = (torch.tensor(numbers) for numbers in zip(*pairs, strict=True))
    batch = store.gather(series, cutoff)
    for index in range(len(pairs)):
        single = store.gather(series[index : index + 1], cutoff[index : index + 1])
        for one, many in zip(
            (*single.inputs, single.target, single.target_mask),
            (*batch.inputs, batch.target, batch.target_mask),
            strict=True,
        ):
            assert torch.equal(one[0], many[index])


@quick
@given(samples(("mask",)))
def test_joined_and_separate_tables_agree(sample: Sample) -> None:
    """A panel too large for the joined table reads the same covariates from two."""
    panel = sample.panel.extended(sample.horizon)
    arguments = (panel, sample.context_length, sample.horizon, torch.device("cpu"))
    joined, separate = CovariateTables(*arguments), CovariateTables(*arguments, max_joined_bytes=0)
    pairs = [(i, c) for i in range(panel.num_series) for c in range(int(panel.lengths[i]) + 1)]
    inner = [(i, c) for i, c in pairs if sample.context_length <= c <= panel.lengths[i] - sample.horizon]
    for chosen, is_inside in ((pairs, False), (inner, True)):
        if chosen:
            series, cutoff = (torch.tensor(numbers) for numbers in zip(*chosen, strict=True))
            for left, right in zip(
                joined.gather(series, cutoff, is_inside), separate.gather(series, cutoff, is_inside), strict=True
            ):
                assert torch.equal(left, right)


def scrambled_after(frame: pd.DataFrame, panel: Panel, cutoffs: dict[str, int], seed: int) -> pd.DataFrame:
    """The frame with every target and past-only covariate from the cutoffs on replaced, and some rows removed."""
    random = np.random.default_rng(seed)
    changed = frame.copy()
    drop = np.zeros(len(frame), bool)
    for name, cutoff in cutoffs.items():
        index = panel.ids.index(name)
        time = panel.timestamps(index, cutoff, cutoff + 1)[0]
        last = panel.timestamps(index, int(panel.lengths[index]) - 1, int(panel.lengths[index]))[0]
        rows = (changed["unique_id"] == name) & (changed["ds"] >= time) & (changed["ds"] <= last)
        changed.loc[rows, "y"] = random.normal(1000, 100, int(rows.sum())).astype(np.float32)
        changed.loc[rows, "h"] = random.normal(1000, 100, int(rows.sum())).astype(np.float32)
        drop |= (rows & (changed["ds"] < last)).to_numpy() & (random.random(len(frame)) < 0.3)
    return changed[~drop].reset_index(drop=True)


@quick
@given(samples(), st.integers(0, 10**6), st.data())
def test_nothing_after_the_cutoff_is_ever_seen(sample: Sample, seed: int, data: st.DataObject) -> None:
    """Replacing or removing any target or measured covariate from the cutoff on changes no context, under any fill policy."""
    panel = sample.panel
    cutoffs = {
        name: data.draw(st.integers(1, int(length))) for name, length in zip(panel.ids, panel.lengths, strict=True)
    }
    cutoffs = {name: cutoff for name, cutoff in cutoffs.items() if cutoff < panel.lengths[panel.ids.index(name)]}
    assume(cutoffs)
    other = build(scrambled_after(sample.frame, panel, cutoffs, seed), panel.fill, panel.horizon)
    batches = []
    for each in (panel, other):
        store = WindowStore(each, sample.context_length, sample.horizon)
        series = torch.tensor([each.ids.index(name) for name in cutoffs])
        batches.append(store.gather(series, torch.tensor(list(cutoffs.values()))))
    for name in ("context", "observed_mask", "past_covariates"):
        assert torch.equal(getattr(batches[0].inputs, name), getattr(batches[1].inputs, name)), name


@quick
@given(samples(), st.integers(0, 10**6))
def test_training_statistics_ignore_validation_and_test_rows(sample: Sample, seed: int) -> None:
    """Statistics, vocabulary, season and fill values of a training panel do not change with the rows after training."""
    config = DataConfig(
        futr_exog=("f", "w"), hist_exog=("h",), calendar="none", freq="h", val_size=sample.horizon, test_size=2
    )
    panel = build_panel(sample.frame, config, horizon=sample.horizon)
    try:
        splits = build_splits(panel, sample.horizon, config.val_size, config.test_size)
    except DataError:
        assume(False)
    ends = dict(zip(panel.ids, splits.train_end.tolist(), strict=True))
    cutoffs = {name: end for name, end in ends.items() if 0 < end < panel.lengths[panel.ids.index(name)]}
    changed = scrambled_after(sample.frame, panel, cutoffs, seed)
    late = np.zeros(len(changed), bool)
    for name, cutoff in cutoffs.items():
        late |= (
            (changed["unique_id"] == name)
            & (changed["ds"] >= panel.timestamps(panel.ids.index(name), cutoff, cutoff + 1)[0])
        ).to_numpy()
    changed.loc[late, "w"] = "later"
    changed.loc[late, "f"] = 77.0
    other = build_panel(changed, config, horizon=sample.horizon)
    assert other.columns == panel.columns
    assert other.season_length == panel.season_length
    np.testing.assert_array_equal(other.covariate_fill, panel.covariate_fill)
    for left, right in zip(covariate_statistics(panel, splits), covariate_statistics(other, splits), strict=True):
        assert torch.equal(left, right)


@quick
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=5),
    st.integers(1, 10),
    st.one_of(st.none(), st.integers(1, 20)),
    st.integers(0, 15),
    st.integers(1, 20),
)
def test_splits_partition_the_rows(
    lengths: list[int], horizon: int, val_size: int | None, test_size: int, context_length: int
) -> None:
    """Each row belongs to one part, in order; training targets lie in training rows and validation targets in validation rows."""
    frame = pd.concat(
        [
            pd.DataFrame({"unique_id": f"s{i}", "ds": np.arange(n), "y": np.arange(n) + 1.0})
            for i, n in enumerate(lengths)
        ]
    )
    panel = build_panel(frame, DataConfig(freq="1"))
    try:
        splits = build_splits(panel, horizon, val_size, test_size)
    except DataError:
        return
    assert (splits.train_end >= 0).all()
    assert (splits.train_end <= splits.val_end).all()
    np.testing.assert_array_equal(splits.val_end, np.maximum(panel.lengths - test_size, 0))
    assert set(splits.excluded) == {f"s{i}" for i, end in enumerate(splits.train_end) if end <= horizon}
    windows = TrainingWindows(WindowStore(panel, context_length, horizon), splits)
    series, cutoff = (tensor.numpy() for tensor in windows.locate(torch.arange(windows.num_windows)))
    assert (cutoff >= 1).all()
    assert (cutoff + horizon <= splits.train_end[series]).all()
    assert set(series.tolist()) == set(np.flatnonzero(splits.train_end > horizon).tolist())
    series, cutoff = (tensor.numpy() for tensor in validation_cutoffs(splits, 16))
    assert (cutoff >= splits.train_end[series]).all()
    assert (cutoff + horizon <= splits.val_end[series]).all()


@quick
@given(samples(("mask",)), st.integers(0, 10**6))
def test_order_of_rows_does_not_matter(sample: Sample, seed: int) -> None:
    """Any permutation of the rows gives the same windows."""
    other = build(sample.frame.sample(frac=1, random_state=seed).reset_index(drop=True), "mask", sample.panel.horizon)
    for name in sample.panel.ids:
        windows: list[Any] = []
        for panel in (sample.panel, other):
            index = panel.ids.index(name)
            store = WindowStore(panel, sample.context_length, sample.horizon)
            windows.append(store.gather(torch.tensor([index]), torch.from_numpy(panel.lengths[index : index + 1])))
        for left, right in zip(windows[0].inputs, windows[1].inputs, strict=True):
            assert torch.equal(left, right)
