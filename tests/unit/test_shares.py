"""Threads that take shares of a batch: the gradient of the whole batch, the same each time, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training import pipeline
from training.checkpoint import LAST, read_checkpoint
from training.config import TrainingConfig, load_config
from training.data.shipped import shipped_path
from training.gradients.norms import GradientNorms
from training.loop import VALIDATION_BATCH, FitData, train_step, validate
from training.losses import build_loss
from training.preparation import Prepared, build_fit_data, prepare
from training.shares import AT_ONCE, Shares, can_share, share_threads
from training.threads import kept_threads

SMALL = (
    "model.horizon=4", "model.context_length=12", "model.hidden_size=6", "fit.max_steps=12", "fit.val_check_steps=4",
    "gradients.need_steps=4", "gradients.preset=off", "fit.patience=null", "fit.batch_size=25", "fit.precision=float64",
)  # fmt: skip


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """As on a machine with three cores."""
    with kept_threads():
        torch.set_num_threads(3)
        yield


def config(*overrides: str) -> TrainingConfig:
    return load_config(None, [*SMALL, *overrides], {"data.path": str(shipped_path())})


def gradient(prepared: Prepared, data: FitData, shares: Shares) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Loss and gradient of one step that changes no weight."""
    fit = prepared.config.fit.model_copy(update={"max_grad_norm": None})
    batch = data.store.gather(*data.windows.sample(fit.batch_size, torch.Generator().manual_seed(1)))
    # Windows of unequal weight: one of the first share has only two observed targets, one of the last none.
    batch.target_mask[0, 2:] = False
    batch.target_mask[-1] = False
    loss = build_loss("auto", prepared.forecaster.config.output_levels, prepared.config.model.head)
    still = torch.optim.SGD(prepared.forecaster.parameters(), 0.0)
    norms = GradientNorms(prepared.forecaster)
    reading = train_step(prepared.forecaster, batch, data.floor(batch), loss, still, norms, fit, 1, shares=shares)
    return reading.loss, [parameter.grad for parameter in norms.parameters]


@pytest.mark.parametrize("setting", [
    "model.architecture=lstm", "model.architecture=gru", "model.num_layers=2", "model.architecture=mingru",
    "model.head=student_t", "model.decoder=recursive", "fit.tbptt_steps=5",
])  # fmt: skip
def test_shares_add_up_to_the_gradient_of_the_batch(setting: str) -> None:
    """Whatever the network: loss and every gradient, shares weighted by their observed targets; twice the same bits."""
    prepared = prepare(config(setting))
    data = build_fit_data(prepared)
    loss, whole = gradient(prepared, data, AT_ONCE)
    with share_threads(prepared.forecaster, prepared.config.fit) as shares:
        assert shares.size == 3
        (shared_loss, shared), (_, again) = gradient(prepared, data, shares), gradient(prepared, data, shares)
    torch.testing.assert_close(shared_loss, loss, rtol=1e-12, atol=0.0)
    for one, other, third in zip(whole, shared, again, strict=True):
        assert (one is None) == (other is None) == (third is None)
        if one is not None and other is not None and third is not None:
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-13)
            assert torch.equal(other, third)


def test_validation_in_shares_is_the_same_to_the_bit() -> None:
    """Every batch is one thread's own; their order is kept."""
    prepared = prepare(config())
    data = build_fit_data(prepared)
    assert len(data.validation[0]) > 3 * VALIDATION_BATCH, "or there is nothing to share"
    loss = build_loss("auto", prepared.forecaster.config.output_levels, prepared.config.model.head)
    with share_threads(prepared.forecaster, prepared.config.fit) as shares:
        at_once, shared = (validate(prepared.forecaster, data, loss, shares=how) for how in (AT_ONCE, shares))
    assert all(torch.equal(one, other) for one, other in zip(at_once, shared, strict=True))


def test_a_fit_in_shares_is_repeated_to_the_bit_and_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has its threads back afterwards, of which it computed with one meanwhile, and the pool is gone."""
    monkeypatch.chdir(tmp_path)
    before = threading.active_count()
    for name in ("one", "two"):
        pipeline.train(config("fit.num_threads=2"), output=Path(name))
    one, two = (read_checkpoint(Path(name) / "checkpoints" / LAST)[0] for name in ("one", "two"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert threading.active_count() == before
    assert torch.get_num_threads() == 2, "what the configuration asked for"


@pytest.mark.parametrize(
    "setting", ["model.dropout=0.2", "fit.precision=bfloat16", "model.series_embedding=2", "fit.compile=true"]
)
def test_what_depends_on_order_or_on_the_process_is_not_shared(setting: str) -> None:
    """Random numbers, and switches of the whole process."""
    prepared = prepare(config(setting))
    assert not can_share(prepared.forecaster, prepared.config.fit)
    with share_threads(prepared.forecaster, prepared.config.fit) as shares:
        assert shares is AT_ONCE
        assert torch.get_num_threads() == 3


def test_no_share_has_less_than_eight_windows() -> None:
    """Sixty-four threads for sixty-four windows would be sixty-four tiny products."""
    prepared = prepare(config())
    for batch_size, expected in ((25, 3), (23, 2), (16, 2), (15, 1)):
        fit = prepared.config.fit.model_copy(update={"batch_size": batch_size})
        with share_threads(prepared.forecaster, fit) as shares:
            assert shares.size == expected


def test_an_error_in_a_share_reaches_the_fit() -> None:
    """And the pool is closed."""
    prepared = prepare(config())

    def broken(_item: int) -> int:
        raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), share_threads(prepared.forecaster, prepared.config.fit) as shares:
        shares.map(broken, [1, 2, 3, 4])
    assert threading.active_count() == before
    with share_threads(prepared.forecaster, prepared.config.fit) as shares:
        assert shares.map(str, range(8)) == [str(number) for number in range(8)]
