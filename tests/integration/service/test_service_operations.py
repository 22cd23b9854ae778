"""The running service: health, models, metrics, swapping, load, deadlines, leaving."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from app.errors import PROBLEMS
from app.main import create_app
from app.schemas.forecast import ForecastRequest
from app.schemas.models import ModelDetail, ModelList, ReadyBody
from app.settings import ServiceSettings, load_settings
from tests.integration.service.service_bundles import COLUMNS, HORIZON, TestClient, series, write_bundle
from training.errors import ConfigurationError


def ask(client: TestClient, *items: dict[str, Any], **request: Any) -> Any:
    return client.post("/forecast", json={"series": list(items) or [series()]} | request)


def read_metrics(client: TestClient) -> dict[str, dict[str, float]]:
    """Sample value by name and label values."""
    samples: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[" ".join(sample.labels.values())] = sample.value
    return samples


class Gate:
    """Holds up every forward pass of an application."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from app.services import engine

        self.opened, self.entered, self.sizes = threading.Event(), threading.Event(), []
        self._forward = engine.forward
        monkeypatch.setattr(engine, "forward", self._wait)
        monkeypatch.setattr(engine, "MAX_INLINE_SECONDS", 0.0)  # the event loop must go on

    def _wait(self, forecaster: Any, inputs: Any) -> Any:
        self.sizes.append(inputs.context.shape[0])
        self.entered.set()
        self.opened.wait(20)
        return self._forward(forecaster, inputs)


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.005)


def test_alive_before_ready(tmp_path: Path, launch: Any) -> None:
    """Without a model the process is alive, not ready, and a forecast is a 503 that says when to come back."""
    (tmp_path / "empty").mkdir()
    client = launch(tmp_path / "empty", is_ready=False)
    assert client.get("/livez").json() == {"status": "alive"}
    for response in (client.get("/readyz"), ask(client)):
        assert response.status_code == 503
        assert response.json()["code"] == "not_ready"
        assert int(response.headers["retry-after"]) >= 1


def test_ready_names_the_models(client: TestClient) -> None:
    """/readyz tells version and readiness of each model, the source and the queue."""
    body = ReadyBody.model_validate(client.get("/readyz").json())
    assert body.status == "ready"
    assert {(model.name, model.version, model.is_ready, model.last_error) for model in body.models} == {
        ("plain", 1, True, None),
        ("full", 1, True, None),
    }
    assert body.source.has_answered


def test_models_are_described(client: TestClient) -> None:
    """GET /models tells what a client must know to build a request; GET /models/{name} adds the evaluation."""
    body = ModelList.model_validate(client.get("/models").json())
    assert body.default_model == "plain"
    full = next(model for model in body.models if model.name == "full")
    assert full.horizon == HORIZON
    assert full.aliases == {"champion": 1}
    assert full.verdict == "healthy"
    assert full.has_context
    assert full.columns is not None
    assert full.columns.futr_exog == list(COLUMNS.futr_exog)
    assert full.columns.categories["weather"] == ["rain", "sun"]
    detail = ModelDetail.model_validate(client.get("/models/full").json())
    assert detail.metrics == {"val/mae": 1.0}
    assert detail.baselines["seasonal_naive"]["val/mae"] == 2.0
    assert [version.version for version in detail.versions] == [1]


def test_a_new_version_takes_over_without_a_restart(tmp_path: Path, launch: Any) -> None:
    """A version that appears beside the served one answers the next requests; a pinned request still gets the old."""
    write_bundle(tmp_path / "m" / "1", seed=1)
    client = launch(tmp_path, poll_seconds=0.05)
    before = ask(client).json()
    write_bundle(tmp_path / "m" / "2", seed=2)
    wait_for(lambda: ask(client).json()["model"]["version"] == 2)
    after, pinned = ask(client).json(), ask(client, model="m/1").json()
    assert after["forecasts"] != before["forecasts"]
    assert pinned["forecasts"] == before["forecasts"]
    assert pinned["model"]["alias"] is None
    metrics = read_metrics(client)
    assert metrics["gradcast_model_version"]["m"] == 2
    assert metrics["gradcast_model_age_seconds"]["m"] < 20
    assert metrics["gradcast_model_info"]["m healthy 2"] == 1


def test_a_corrupt_version_leaves_the_old_one_serving(tmp_path: Path, launch: Any) -> None:
    """One flipped byte in the new weights: same answers as before, ready, and the reason in /readyz and /metrics."""
    write_bundle(tmp_path / "m" / "1", seed=1)
    client = launch(tmp_path, poll_seconds=0.05)
    before = ask(client).json()
    fresh = write_bundle(tmp_path / "m" / ".2", seed=2)
    weights = fresh / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(bytes(content))
    fresh.rename(tmp_path / "m" / "2")
    wait_for(lambda: client.get("/readyz").json()["models"][0]["last_error"])
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["is_degraded"]
    assert "sha256" in ready.json()["models"][0]["last_error"]
    assert str(tmp_path) not in ready.text
    assert ask(client).json() == before
    metrics = read_metrics(client)
    assert metrics["gradcast_model_failing"]["m"] == 1
    assert metrics["gradcast_model_loads_total"]["m failed"] >= 1


def test_requests_that_wait_share_a_forward_pass(tmp_path: Path, launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight clients that come while one is served are the next batch, and each gets its own answer."""
    client = launch(write_bundle(tmp_path / "m"))
    items = [series(f"s{number}", 12 + number) for number in range(9)]
    alone = [ask(client, item).json() for item in items]
    gate = Gate(monkeypatch)
    with ThreadPoolExecutor(9) as pool:
        tasks = [pool.submit(ask, client, items[0])]
        assert gate.entered.wait(10)
        tasks += [pool.submit(ask, client, item) for item in items[1:]]
        engine = client.app.state.engine  # type: ignore[attr-defined]
        # Admitted and appended are one step of the event loop; handed over is the next.
        wait_for(lambda: engine.admitted_windows == 9 and not engine._arrived)
        gate.opened.set()
        answers = [task.result().json() for task in tasks]
    assert gate.sizes == [1, 8]
    assert answers == alone


def test_a_full_queue_is_a_429_and_recovers(tmp_path: Path, launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows count, not requests: two series do not fit where one does; after the rush everything is answered."""
    client = launch(write_bundle(tmp_path / "m"), max_queue_windows=4)
    gate = Gate(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, client, *(series(name) for name in "abc"))
        assert gate.entered.wait(10)
        refused = ask(client, series("d"), series("e"))
        assert refused.status_code == 429
        assert refused.json()["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        fits = pool.submit(ask, client, series("d"))
        wait_for(lambda: read_metrics(client)["gradcast_queue_windows"][""] == 4)
        assert ask(client).status_code == 429
        gate.opened.set()
        assert (first.result().status_code, fits.result().status_code) == (200, 200)
    assert ask(client).status_code == 200
    assert read_metrics(client)["gradcast_queue_windows"][""] == 0


def test_a_deadline_is_a_504_and_its_work_is_dropped(
    tmp_path: Path, launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits too long gets a 504; what expired in the queue never runs; the service goes on."""
    client = launch(write_bundle(tmp_path / "m"), request_timeout_seconds=0.3)
    gate = Gate(monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, client)
        assert gate.entered.wait(10)
        waiting = pool.submit(ask, client)
        for task in (running, waiting):
            response = task.result()
            assert response.status_code == 504
            assert response.json()["code"] == "deadline_exceeded"
    gate.opened.set()
    wait_for(lambda: read_metrics(client)["gradcast_expired_windows_total"][""] == 1)
    assert len(gate.sizes) == 1
    assert ask(client).status_code == 200


def test_a_client_that_leaves_hurts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two requests in one batch one is abandoned: the other is answered, and no place in the queue is lost."""
    app = create_app(ServiceSettings(bundle=write_bundle(tmp_path / "m"), poll_seconds=1000.0))
    gate = Gate(monkeypatch)

    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.01)
            body = {"series": [series()]}
            first = asyncio.create_task(client.post("/forecast", json=body))
            await asyncio.to_thread(gate.entered.wait, 10)
            leaving, staying = (asyncio.create_task(client.post("/forecast", json=body)) for _ in range(2))
            while app.state.engine.admitted_windows < 3:
                await asyncio.sleep(0.005)
            leaving.cancel()
            await asyncio.sleep(0.01)
            gate.opened.set()
            await first
            answer = await staying
            assert app.state.engine.admitted_windows == 0
            return answer

    assert asyncio.run(scenario()).status_code == 200


def test_draining_finishes_what_it_took(tmp_path: Path, launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way out: unready, new requests 503, the ones in the queue answered."""
    client = launch(write_bundle(tmp_path / "m"))
    gate = Gate(monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, client)
        assert gate.entered.wait(10)
        client.app.state.engine.start_draining()  # type: ignore[attr-defined]
        for response in (ask(client), client.get("/readyz")):
            assert response.status_code == 503
            assert response.json()["code"] == "draining"
            assert "retry-after" in response.headers
        assert client.get("/livez").status_code == 200
        gate.opened.set()
        assert running.result().status_code == 200


def test_metrics_tell_what_happened(tmp_path: Path, launch: Any) -> None:
    """Requests by route template, errors by code, windows and batches by size; unknown paths do not make series."""
    client = launch(write_bundle(tmp_path / "m"))
    ask(client, series("a"), series("b"), series("c", freq="D"))
    ask(client, horizon=99)
    for number in range(3):
        client.get(f"/nowhere/{number}")
        client.get("/models/m")
    metrics = read_metrics(client)
    assert metrics["gradcast_requests_total"]["POST /forecast 200"] == 1
    assert metrics["gradcast_requests_total"]["POST /forecast 422"] == 1
    assert metrics["gradcast_requests_total"]["GET /models/{name} 200"] == 3
    assert metrics["gradcast_requests_total"]["ANY unmatched 404"] == 3
    assert metrics["gradcast_request_seconds_count"]["POST /forecast"] == 2
    assert metrics["gradcast_errors_total"] == {"horizon_too_long": 1, "route_not_found": 3} | {
        key: value for key, value in metrics["gradcast_errors_total"].items() if key == "not_ready"
    }
    assert metrics["gradcast_series_errors_total"]["frequency_mismatch"] == 1
    assert metrics["gradcast_windows_total"]["m"] == 2
    assert metrics["gradcast_batch_windows_sum"][""] == 2
    assert metrics["gradcast_source_up"][""] == 1


def test_two_applications_do_not_share_metrics(tmp_path: Path, launch: Any) -> None:
    """Each application has its own registry."""
    bundle = write_bundle(tmp_path / "m")
    one, other = launch(bundle), launch(bundle)
    ask(one)
    assert "gradcast_windows_total" in read_metrics(one)
    assert "m" not in read_metrics(other).get("gradcast_windows_total", {})


def test_the_openapi_page_tells_the_truth(client: TestClient) -> None:
    """The request's example is valid, every error response is problem+json, and every reference resolves."""
    document = client.get("/openapi.json").json()
    assert client.get("/docs").status_code == 200
    request = document["components"]["schemas"]["ForecastRequest"]
    for example in request["examples"]:
        ForecastRequest.model_validate_json(json.dumps(example))
    assert not request["additionalProperties"]
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
                    codes = response["content"]["application/problem+json"]["examples"]
                    assert all(PROBLEMS[code].status == int(status) for code in codes)
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in document["components"]["schemas"]


def test_nothing_is_loaded_by_importing_the_application() -> None:
    """Building an application starts no thread, and importing it loads no MLflow."""
    code = (
        "import sys, threading, app.main, app.server; app.main.create_app(app.main.ServiceSettings(bundle='nowhere'));"
        "assert 'mlflow' not in sys.modules; assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.network
def test_the_process_answers_and_leaves_in_good_order(tmp_path: Path) -> None:
    """`python -m app` with settings from the environment serves a bundle, and SIGTERM ends it with exit code 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {"GRADCAST_BUNDLE": str(write_bundle(tmp_path / "m")), "GRADCAST_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-m", "app"], env=environment, stderr=subprocess.PIPE) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

                def is_ready() -> bool:
                    try:
                        return client.get("/readyz").status_code == 200
                    except httpx.TransportError:
                        assert process.poll() is None
                        return False

                wait_for(is_ready, 90.0)
                assert client.post("/forecast", json={"series": [series()]}).json()["status"] == "completed"
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """GRADCAST_ variables are read when asked for, given values beat them, and every mistake is named together."""
    monkeypatch.setenv("GRADCAST_PORT", "9000")
    monkeypatch.setenv("GRADCAST_MODELS", "bike, boat")
    monkeypatch.setenv("GRADCAST_BUNDLE", "")
    settings = load_settings(port=9001, host=None)
    assert (settings.port, settings.models, settings.bundle, settings.host) == (
        9001,
        ("bike", "boat"),
        None,
        "127.0.0.1",
    )
    monkeypatch.setenv("GRADCAST_PORT", "many")
    monkeypatch.setenv("GRADCAST_POLL_SECONDS", "-1")
    with pytest.raises(ConfigurationError) as refusal:
        load_settings()
    assert {problem.where for problem in refusal.value.problems} == {"GRADCAST_PORT", "GRADCAST_POLL_SECONDS"}


def test_every_setting_says_what_it_is() -> None:
    """Each setting has a description."""
    for name, field in ServiceSettings.model_fields.items():
        assert field.description, name


def test_the_engine_computes_on_one_thread(client: TestClient) -> None:
    """The inference thread runs, and leaves gradient mode of other threads alone."""
    assert client.app.state.engine.is_alive  # type: ignore[attr-defined]
    assert torch.is_grad_enabled()
