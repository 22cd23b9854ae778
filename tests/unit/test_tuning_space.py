"""Spaces: what the user wrote stays, what cannot be compared is refused, and no trial number is given out twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import yaml

from training.config import build_config, load_config
from training.errors import ConfigurationError
from training.tuning.space import Choices, Multiples, Range, default_space, parse_space, resolve_space, space_to_yaml
from training.tuning.storage import open_storage, resolve_storage
from training.tuning.study import NumberedSampler


def test_what_the_user_wrote_is_not_searched() -> None:
    """A key that is set, even to its default, stays out of the default space."""
    space = default_space(load_config(None, ["model.architecture=lstm", "model.dropout=0.0"]))
    assert not {"model.architecture", "model.dropout"} & set(space)
    assert {"model.hidden_size", "model.num_layers", "optimizer.learning_rate", "model.scaler"} <= set(space)


def test_a_printed_space_reads_back_as_itself() -> None:
    """`--print-space` writes what `--space` reads."""
    space = default_space(build_config({}))
    assert parse_space(yaml.safe_load(space_to_yaml(space))) == space


def test_every_mistake_in_a_space_is_named_at_once() -> None:
    """Unknown keys, keys that change the question, ranges the wrong way round, and values a key does not allow."""
    wrong = {"model.hiden": [1], "model.horizon": [1, 2], "optimizer.learning_rate": {"low": 1.0, "high": 0.1}, "fit.loss": 3}
    with pytest.raises(ConfigurationError) as caught:
        parse_space(wrong)
    assert [problem.where for problem in caught.value.problems] == [
        "optimizer.learning_rate", "fit.loss", "model.hiden", "model.horizon",
    ]  # fmt: skip
    with pytest.raises(ConfigurationError, match="-1 is not possible"):
        resolve_space({"model.num_layers": Range(low=-1, high=3)}, build_config({}), 100)


def test_multiples_are_whole_steps_up_to_the_longest_possible() -> None:
    """0.5, 1 and 4 times 25 with at most 60: 12, 25, 60."""
    assert Multiples(multiples=(0.5, 1, 4)).of(25, 60) == Choices(choices=(12, 25, 60))


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_no_number_and_no_waiting_trial_is_given_out_twice(tmp_path: Path) -> None:
    """Six workers, each with a connection of its own, ask one sqlite study as fast as they can."""
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = optuna.create_study(storage=open_storage(url), study_name="s")
    for number in range(12):
        study.enqueue_trial({"x": float(number)})

    def ask(_worker: int) -> list[tuple[int, float]]:
        mine = optuna.load_study(study_name="s", storage=open_storage(url))
        trials = [mine.ask() for _ in range(6)]
        return [(trial.number, trial.suggest_float("x", 0.0, 100.0)) for trial in trials]

    with ThreadPoolExecutor(6) as pool:
        asked = [pair for share in pool.map(ask, range(6)) for pair in share]
    numbers = [number for number, _ in asked]
    assert sorted(numbers) == list(range(36))
    assert sorted(value for number, value in asked if number < 12) == [float(number) for number in range(12)]


def test_randomness_follows_from_the_number_of_the_trial() -> None:
    """Two processes with one seed draw different settings for different trials, and the same for the same one."""
    def draw(skip: int) -> list[float]:
        study = optuna.create_study(sampler=NumberedSampler(0))
        study.add_trials([optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL) for _ in range(skip)])
        return [study.ask().suggest_float("x", 0, 1) for _ in range(3)]

    assert draw(0)[1:] == draw(1)[:2]
    assert len(set(draw(0))) == 3


def test_studies_lie_beside_the_tracking_store_and_never_in_mlflows_own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries keep a table of one name; a file that MLflow uses is refused, with the place to use instead."""
    monkeypatch.delenv("GRADCAST_STUDY_STORAGE", raising=False)
    tracking = load_config(None, ["tracking.uri=sqlite:////data/mlruns/mlflow.db"]).tracking
    assert resolve_storage(None, tracking) == "sqlite:////data/mlruns/studies.db"
    server = load_config(None, ["tracking.uri=postgresql://u:p@db/mlflow"]).tracking
    assert resolve_storage(None, server) == "postgresql://u:p@db/mlflow"
    with pytest.raises(ConfigurationError, match="another file than MLflow's"):
        resolve_storage("sqlite:////data/mlruns/mlflow.db", tracking)
    with pytest.raises(ConfigurationError, match=r"must be sqlite"):
        resolve_storage("http://db", tracking)
