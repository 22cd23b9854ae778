"""What the service says about itself: metrics, dashboard, ids of requests, log lines, spans."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.access.middleware import access_logger
from app.logs import JsonFormatter, TextFormatter
from app.main import create_app
from app.services.drift import HALF_LIFE_WINDOWS
from app.settings import ServiceSettings
from app.tracing import TracingMiddleware
from models.columns import Columns
from tests.integration.service.service_bundles import (
    TestClient,
    build_context,
    full_series,
    series,
    wait_ready,
    write_bundle,
)


def samples(client, name: str) -> dict[tuple[str, ...], float]:
    """Values by the labels' values, labels in alphabetical order."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {tuple(s.labels.values()): s.value for family in families for s in family.samples if s.name == name}


def test_every_metric_of_the_dashboard_exists(client, repository):
    """What a panel asks for is printed, labels included that it groups by; no panel is without a question."""
    client.post("/forecast", json={"model": "plain", "series": [series(), series("b", freq="D")]})
    client.get("/nowhere")
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        kinds = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
        labels = {label for sample in family.samples for label in sample.labels}
        known |= {family.name + kind: labels for kind in kinds}
    dashboard = json.loads((repository / "docker/grafana/dashboards/gradcast.json").read_text())
    assert len(dashboard["panels"]) >= 12
    for panel in dashboard["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            names = re.findall(r"\b(?:gradcast|process)_\w+", target["expr"])
            assert names
            for name in names:
                assert name in known, name
            grouped = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            shown = set().union(*(known[name] for name in names))
            # What has not happened here (a shadow's error, a request with a key) is a name without labels yet.
            assert not shown or grouped <= shown | {"instance", "job"}, target["expr"]


def test_drift_is_the_distance_from_the_training_data(launch, tmp_path, monkeypatch):
    """By hand: windows at the stored mean show 0, windows ten deviations above show 10, half of them missing shows 0.5."""
    monkeypatch.setattr("app.services.drift.SECONDS_BETWEEN_LOOKS", 0.0)
    context = build_context(Columns())
    client = launch(write_bundle(tmp_path / "m", context=context))
    loc, scale = float(context["y"].to_numpy(np.float64).mean()), float(np.std(context["y"].to_numpy(np.float64)))
    assert samples(client, "gradcast_input_shift") == {}

    def ask(y, times):
        for _ in range(times):
            assert client.post("/forecast", json={"series": [series(y=y)]}).status_code == 200

    ask([loc - scale, loc + scale] * 6, 3)
    assert samples(client, "gradcast_input_shift")["y", "m"] == pytest.approx(0.0, abs=1e-5)
    assert samples(client, "gradcast_input_missing_ratio")["m",] == 0.0
    # After one half-life the old windows count half; three windows came before, so that the mean is known exactly.
    ask([loc + 10 * scale, None] * 6, int(HALF_LIFE_WINDOWS))
    old = 0.5 * (1 - 0.5 ** (3 / HALF_LIFE_WINDOWS))
    expected = 0.5 / (0.5 + old)
    assert samples(client, "gradcast_input_shift")["y", "m"] == pytest.approx(10 * expected, rel=1e-4)
    assert samples(client, "gradcast_input_missing_ratio")["m",] == pytest.approx(0.5 * expected, rel=1e-6)


def test_drift_of_covariates_uses_the_statistics_of_the_network(client, monkeypatch):
    """`full` was given mean 0.5 and spread 2 for every channel: a flow of 12.5 is 6 deviations away."""
    monkeypatch.setattr("app.services.drift.SECONDS_BETWEEN_LOOKS", 0.0)
    client.app.state.forecasting._drift.__init__()
    one = full_series(hist_exog={"flow": [12.5] * 12})
    assert client.post("/forecast", json={"model": "full", "series": [one]}).status_code == 200
    assert samples(client, "gradcast_input_shift")["flow", "full"] == pytest.approx(6.0)


def test_a_model_says_how_old_its_data_is(client):
    """The age of the last trained row, which lies before the time the model was loaded."""
    data, loaded = samples(client, "gradcast_model_data_age_seconds"), samples(client, "gradcast_model_age_seconds")
    assert data["plain",] > loaded["plain",] >= 0


@pytest.mark.parametrize("given", ["checkout-7", "a" * 128, "0af7:651.x_Y"])
def test_a_harmless_request_id_is_kept(client, given):
    """The id that came in goes out."""
    assert client.get("/livez", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "a" * 129, "é", "-a", 'x"y', "a\tb"])
def test_any_other_request_id_is_replaced(client, given):
    """None, too long, or with characters that mean something elsewhere: a new one, different each time."""
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    one, other = (client.get("/livez", headers=headers).headers.get_list("x-request-id") for _ in range(2))
    assert len(one) == 1
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]+", one[0])
    assert one != other


def test_an_error_nobody_expected_is_answered_with_its_id_and_logged_with_it(client, monkeypatch, caplog):
    """A 500 carries the id and the security headers, and the line of the incident is found by it; the data is in neither."""
    lines = collect(monkeypatch)
    monkeypatch.setattr("app.services.forecasting.encode_all", lambda *_: 1 / 0)
    body = {"model": "plain", "series": [series(y=[987654.25])]}
    answer = client.post("/forecast", json=body, headers={"X-Request-Id": "incident-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "incident-1")
    assert answer.headers["x-content-type-options"] == "nosniff"
    (line,) = [json.loads(line) for line in lines if "incident" in line]
    assert line["request_id"] == "incident-1"
    assert "ZeroDivisionError" in line["exception"]
    assert "987654" not in answer.text + json.dumps(line)


def collect(monkeypatch, formatter=None):
    """The lines that a handler with our formatter would print."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((formatter or JsonFormatter()).format(record))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers, handler])
    return lines


def test_the_access_log_has_one_line_per_request(launch, shared_store, monkeypatch, caplog):
    """Method, route, status, seconds and id as members, the template instead of the path, and nothing of the query."""
    client = launch(shared_store, access_log=True)
    lines = collect(monkeypatch)
    caplog.set_level(logging.INFO, access_logger.name)
    client.get("/models/plain?secret=1", headers={"X-Request-Id": "r1"})
    client.get("/nowhere/secret")
    first, second = (json.loads(line) for line in lines if "gradcast.access" in line)
    assert (first["method"], first["route"], first["status"], first["request_id"]) == ("GET", "/models/{name}", 200, "r1")
    assert 0 < first["seconds"] < 10
    assert (second["route"], second["status"]) == ("unmatched", 404)
    assert "secret" not in "".join(lines)


def test_lines_outside_a_request_have_no_id():
    """A line of the process itself has no id, in either form, and one line stays one line."""
    record = logging.LogRecord("app", logging.INFO, __file__, 1, "two\nlines %d", (3,), None)
    assert set(json.loads(JsonFormatter().format(record))) == {"at", "level", "logger", "message"}
    assert "\n" not in JsonFormatter().format(record)
    assert TextFormatter("%(message)s").format(record) == "two\nlines 3"


def test_a_span_goes_on_where_the_caller_was(shared_store):
    """The span is a child of `traceparent`, is named by the route, and holds status and request id; a 500 marks it."""
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    exporter, provider = memory.InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    app = create_app(ServiceSettings(bundle=shared_store, poll_seconds=1000.0))
    app.add_middleware(TracingMiddleware, provider=provider)
    with TestClient(app) as client:
        wait_ready(client)
        exporter.clear()
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        client.get("/models/plain", headers={"traceparent": parent, "X-Request-Id": "r1"})
    (span,) = exporter.get_finished_spans()
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (parent[3:35], parent[36:52])
    assert span.name == "GET /models/{name}"
    facts = {"http.request.method": "GET", "http.route": "/models/{name}", "http.response.status_code": 200}
    assert dict(span.attributes) == facts | {"gradcast.request_id": "r1"}


def test_tracing_is_ready_to_send(shared_store):
    """With the extra installed the setting builds an exporter; nothing is sent before there is a span."""
    app = create_app(ServiceSettings(bundle=shared_store, tracing=True))
    assert any(entry.cls is TracingMiddleware for entry in app.user_middleware)
