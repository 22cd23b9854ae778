"""The challenger in the shadow: its forecasts, their truth, and that nobody waits for it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.main import create_app
from app.services.shadow import KeptForecasts, Pair, ShadowScore
from app.services.sources import DirectorySource, ModelListing, ModelSource, ModelVersion
from app.settings import ServiceSettings
from tests.integration.service.service_bundles import HORIZON, TestClient, series, wait_ready, write_bundle
from training.errors import ConfigurationError

NAME = "m"


class TwoAliases(ModelSource):
    """Version 1 is the champion, version 2 its challenger."""

    kind, location = "registry", "memory"

    def __init__(self, directory: Path) -> None:
        self._inner = DirectorySource(directory)
        self.champion = 1

    def list_models(self) -> tuple[ModelListing, ...]:
        (listing,) = self._inner.list_models()
        return (ModelListing(NAME, tuple(map(self._name, listing.versions))),)

    def fetch(self, version: ModelVersion) -> Path:
        return self._inner.fetch(version)

    def _name(self, version: ModelVersion) -> ModelVersion:
        return replace(version, aliases=("champion",) if version.version == self.champion else ("challenger",))


@pytest.fixture
def source(tmp_path: Path) -> TwoAliases:
    for version in (1, 2):
        write_bundle(tmp_path / "store" / NAME / str(version), seed=version)
    return TwoAliases(tmp_path / "store")


def build_app(source: TwoAliases, tmp_path: Path, has_thread: bool = False, **settings: Any) -> Any:
    defaults = {"shadow": "challenger", "cache_directory": tmp_path / "cache", "jobs_directory": tmp_path / "jobs"}
    app = create_app(ServiceSettings(open="always", poll_seconds=1000.0, **{**defaults, **settings}), source)
    if app.state.shadow is not None and not has_thread:  # its thread is left out: what it does is called from here
        app.state.shadow.start = lambda: None
    return app


def work_off(app: Any) -> None:
    """What the thread does with everything that waits."""
    while not app.state.shadow._waiting.empty():
        app.state.shadow._try(app.state.shadow._waiting.get())


def ask(client: TestClient, **request: Any) -> Any:
    answer = client.post("/forecast", json={"model": NAME, **request})
    assert answer.status_code == 200
    return answer.json()["forecasts"][0]["mean"]


def outcomes(client: TestClient) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("gradcast_shadow_windows_total{")]
    return {line.split('outcome="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_both_errors_are_those_of_the_two_forecasts_against_what_came(source: TwoAliases, tmp_path: Path) -> None:
    """The score is the mean absolute error worked out from the answers of both versions."""
    app = build_app(source, tmp_path)
    with TestClient(app) as client:
        wait_ready(client)
        past, future = series()["y"], [40.0, 41.0, None, 43.0, 44.0]
        champion, challenger = ask(client, series=[series()]), ask(client, model=f"{NAME}@challenger", series=[series()])
        work_off(app)
        assert client.get(f"/models/{NAME}").json()["shadow"]["champion_mae"] is None
        ask(client, series=[series(y=past + future[:-1])])
        work_off(app)
        assert client.get(f"/models/{NAME}").json()["shadow"]["num_forecasts"] == 0  # a step is still to come
        ask(client, series=[series(y=past + future)])
        work_off(app)
        shadow = client.get(f"/models/{NAME}").json()["shadow"]
        metrics = client.get("/metrics").text
    is_seen = [step for step, value in enumerate(future) if value is not None]
    errors = [
        float(np.mean([abs(forecast[step] - future[step]) for step in is_seen])) for forecast in (champion, challenger)
    ]
    assert champion != challenger
    assert (shadow["champion_version"], shadow["challenger_version"]) == (1, 2)
    assert (shadow["num_forecasts"], shadow["num_steps"]) == (1, 4)
    assert [shadow["champion_mae"], shadow["challenger_mae"]] == pytest.approx(errors, rel=1e-5)
    assert shadow["num_wins"] == int(errors[1] < errors[0])
    assert f'gradcast_shadow_error{{model="{NAME}",role="challenger"}} {shadow["challenger_mae"]}' in metrics


def test_the_shadow_follows_by_itself(source: TwoAliases, tmp_path: Path) -> None:
    """Its own thread forecasts and scores, some time after the answers."""
    with TestClient(build_app(source, tmp_path, has_thread=True)) as client:
        wait_ready(client)
        ask(client, series=[series()])
        ask(client, series=[series(y=series()["y"] + [1.0] * HORIZON)])
        give_up_at = time.monotonic() + 20.0
        while not (client.get(f"/models/{NAME}").json()["shadow"] or {}).get("num_forecasts"):
            assert time.monotonic() < give_up_at, outcomes(client)
            time.sleep(0.02)


def test_a_new_champion_begins_a_new_score(source: TwoAliases, tmp_path: Path) -> None:
    """Forecasts of another pair of versions do not count for this one."""
    app = build_app(source, tmp_path)
    with TestClient(app) as client:
        wait_ready(client)
        ask(client, series=[series()])
        work_off(app)
        source.champion = 2
        app.state.catalog.poll()
        ask(client, series=[series(y=series()["y"] + [1.0] * HORIZON)])
        work_off(app)
        shadow = client.get(f"/models/{NAME}").json()["shadow"]
    assert (shadow["champion_version"], shadow["challenger_version"], shadow["num_forecasts"]) == (2, 1, 0)


def test_under_load_the_shadow_is_dropped_and_the_champion_answers(source: TwoAliases, tmp_path: Path) -> None:
    """With nobody taking from it the queue fills up: every request is answered all the same, and the rest is counted."""
    app = build_app(source, tmp_path)
    with TestClient(app) as client:
        wait_ready(client)
        for _ in range(20):
            ask(client, series=[series()])
        assert outcomes(client) == {"dropped": 4.0}
        work_off(app)
        assert outcomes(client) == {"dropped": 4.0, "forecast": 16.0}


def test_a_challenger_that_cannot_be_loaded_is_counted_and_nothing_else(source: TwoAliases, tmp_path: Path) -> None:
    """The champion answers, and no score appears."""
    (tmp_path / "store" / NAME / "2" / "weights.safetensors").write_bytes(b"nothing")
    app = build_app(source, tmp_path)
    with TestClient(app) as client:
        wait_ready(client)
        ask(client, series=[series()])
        work_off(app)
        assert outcomes(client) == {"failed": 1.0}
        assert client.get(f"/models/{NAME}").json()["shadow"] is None


def test_without_the_setting_nothing_is_watched(source: TwoAliases, tmp_path: Path) -> None:
    """Off is the default."""
    app = build_app(source, tmp_path, shadow=None)
    with TestClient(app) as client:
        wait_ready(client)
        ask(client, series=[series()])
        assert app.state.shadow is None
        assert client.get(f"/models/{NAME}").json()["shadow"] is None


def test_the_champion_is_not_its_own_challenger() -> None:
    """The same alias twice is refused with its setting."""
    from app.settings import load_settings

    with pytest.raises(ConfigurationError, match="GRADCAST_SHADOW"):
        load_settings(shadow="champion")


def test_no_more_is_kept_than_allowed() -> None:
    """The series not asked for the longest loses its oldest forecast."""
    kept = KeptForecasts(3)
    zeros = np.zeros(1, np.float32)
    for unique_id, first in (("a", 1), ("b", 1), ("a", 2), ("a", 2), ("c", 1)):
        kept.keep(NAME, unique_id, Pair((1, 2), np.array([first]), zeros, zeros))
    assert len(kept) == 3
    assert {key[1]: list(pairs) for key, pairs in kept._by_series.items()} == {"a": [1, 2], "c": [1]}


def test_a_score_worked_by_hand() -> None:
    """|1-2| + |3-1| = 3 against |2-2| + |2-1| = 1 over two seen steps: 1.5 and 0.5, and the challenger wins."""
    pair = Pair((1, 2), np.arange(3), np.array([1, 9, 3], np.float32), np.array([2, 9, 2], np.float32))
    score = ShadowScore((1, 2)).add(pair, np.array([2, np.nan, 1], np.float32))
    assert (score.champion_mae, score.challenger_mae, score.num_wins, score.num_steps) == (1.5, 0.5, 1, 2)
