"""The service with keys: who is let in, to what, how often, and what is written down."""

from __future__ import annotations

import json

import pytest

from app.access.guard import STRANGER
from app.access.keys import KeyStore
from app.access.scopes import PUBLIC, SCOPES, Scope, required_scopes
from app.services.metrics import ServiceMetrics
from tests.integration.service.service_bundles import series

BODY = {"model": "plain", "series": [series()]}


@pytest.fixture
def keyed(launch, shared_store, tmp_path, monkeypatch):
    """A service that asks for keys, its store of keys, and a function that asks it with a token."""
    monkeypatch.setattr("app.access.keys.RELOAD_SECONDS", 0.0)
    folders = {"keys_directory": tmp_path / "keys", "jobs_directory": tmp_path / "jobs"}
    settings = {"models": ("plain",), "open": "never", "job_workers": 0, **folders}

    def start(**more):
        client = launch(shared_store, **settings, **more)
        store = KeyStore(tmp_path / "keys")

        def ask(token, method, path, **options):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return client.request(method, path, headers=headers | options.pop("headers", {}), **options)

        return client, store, ask

    return start


def audit_lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "keys" / "audit.jsonl").read_text().splitlines()]


def test_without_a_key_only_public_routes_answer(keyed):
    """Health, the page and the documentation answer; everything else is a 401 that says how to ask, also what does not exist."""
    client, _, ask = keyed()
    for path in ("/livez", "/readyz", "/", "/static/api.js", "/openapi.json", "/page/compare?first=a&second=b"):
        assert client.get(path).status_code == 200, path
    for route in ("POST /forecast", "GET /models", "GET /jobs", "POST /datasets", "GET /metrics", "GET /nowhere"):
        method, path = route.split()
        answer = ask(None, method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "key_missing"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")
    wrong = ask("gradcast_00000000_" + "0" * 64, "POST", "/forecast", json=BODY)
    assert (wrong.status_code, wrong.json()["code"]) == (401, "key_invalid")
    assert client.get("/models", headers={"Authorization": "Basic Zm9vOmJhcg=="}).json()["code"] == "key_missing"


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.FORECAST, {"POST /forecast", "GET /models"}),
        (Scope.TRAIN, {"GET /models", "GET /jobs", "GET /datasets"}),
        (Scope.ADMIN, {"POST /forecast", "GET /models", "GET /jobs", "GET /datasets", "POST /models/plain/promote"}),
    ],
)
def test_a_key_opens_what_its_scope_says(keyed, scope, allowed):
    """Every other route is a 403 that names the scope it asks for."""
    _, store, ask = keyed()
    _, token = store.create("a", [scope])
    bodies = {"POST /forecast": BODY, "POST /models/plain/promote": {"version": 1}}
    asked = {"POST /forecast", "GET /models", "GET /jobs", "GET /datasets", "POST /models/plain/promote"}
    for route in sorted(asked):
        method, path = route.split()
        answer = ask(token, method, path, json=bodies.get(route))
        if route in allowed:
            assert answer.status_code in (200, 409), (route, answer.text)
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
            assert "`admin`" in answer.json()["detail"]


def test_keys_come_and_go_while_the_service_runs(keyed):
    """A key made after the start works, and one that is revoked stops working."""
    _, store, ask = keyed()
    _, token = store.create("a", [Scope.FORECAST])
    assert ask(token, "POST", "/forecast", json=BODY).json()["status"] == "completed"
    store.revoke("a")
    assert ask(token, "POST", "/forecast", json=BODY).json()["code"] == "key_invalid"


def test_a_key_has_its_own_rate(keyed):
    """After its burst a key gets 429 with Retry-After, and the other key is not touched by it."""
    _, store, ask = keyed(key_requests_per_second=1000.0)
    _, slow = store.create("slow", [Scope.FORECAST], requests_per_second=0.01, burst=2)
    _, other = store.create("other", [Scope.FORECAST])
    assert [ask(slow, "GET", "/models").status_code for _ in range(3)] == [200, 200, 429]
    refused = ask(slow, "GET", "/models")
    assert refused.json()["code"] == "rate_limited"
    assert 90 <= int(refused.headers["retry-after"]) <= 100
    assert ask(other, "GET", "/models").status_code == 200


def test_the_audit_log_says_who_did_what_with_which_outcome(keyed, tmp_path):
    """Changes and refusals have a line each, with name and id of the key; forecasts have none; no line holds a token or data."""
    _, store, ask = keyed()
    key, token = store.create("clerk", [Scope.TRAIN])
    ask(token, "POST", "/datasets", params={"name": "secret.csv"}, content="ds,y\n" + "2026-01-01,7\n")
    ask(token, "GET", "/jobs")
    ask(token, "POST", "/forecast", json=BODY)
    ask(None, "POST", "/jobs", json={})
    lines = audit_lines(tmp_path)
    clerk = {"name": "clerk", "key_id": key.id}
    assert [(line["who"], line["action"], line["outcome"], line.get("code")) for line in lines] == [
        (clerk, "POST /datasets", 422, None),
        (clerk, "POST /forecast", 403, "scope_missing"),
        ({"name": None, "key_id": None}, "POST /jobs", 401, "key_missing"),
    ]
    text = (tmp_path / "keys" / "audit.jsonl").read_text()
    assert all(secret not in text for secret in (token, token[-20:], "2026-01-01", "secret.csv"))


def test_the_audit_log_can_hold_everything(keyed, tmp_path):
    """With `audit` = all, forecasts and reads have a line too."""
    _, store, ask = keyed(audit="all")
    _, token = store.create("a", [Scope.FORECAST])
    ask(token, "POST", "/forecast", json=BODY)
    ask(token, "GET", "/models")
    assert [line["action"] for line in audit_lines(tmp_path)] == ["POST /forecast", "GET /models"]


def test_an_open_service_closes_with_its_first_key(launch, shared_store, tmp_path, monkeypatch):
    """Open until there are keys: the first one closes it, and it stays closed though the file goes."""
    monkeypatch.setattr("app.access.keys.RELOAD_SECONDS", 0.0)
    client = launch(shared_store, open="until_keys", keys_directory=tmp_path)
    assert client.get("/models").status_code == 200
    store = KeyStore(tmp_path)
    store.create("a", [Scope.ADMIN])
    assert client.get("/models").status_code == 401
    store.path.unlink()
    assert client.get("/models").status_code == 401


def test_an_open_service_answers_to_its_own_names_only(launch, shared_store):
    """A foreign name that was made to point to this machine is refused, so that no web site reads or changes anything."""
    client = launch(shared_store, is_ready=False, allowed_hosts=())
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000", "LOCALHOST:1"):
        assert client.get("/models", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "[::1].evil"):
        answer = client.get("/models", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "host_not_allowed"), host


def test_every_answer_carries_the_headers_that_browsers_obey(keyed):
    """Answers, refusals, pages, files and errors: no sniffing, no frame, no referrer to others, nothing loaded from elsewhere."""
    client, _, _ = keyed()
    for path in ("/livez", "/models", "/", "/static/api.js", "/static/nothing", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] in ("no-referrer", "same-origin")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert len(headers.get_list("content-security-policy")) == 1


def test_every_route_says_which_scope_it_asks_for(client):
    """No route falls back to `admin` by being forgotten, and what changes something is public to nobody."""
    for path, operations in client.app.openapi()["paths"].items():
        for method in operations:
            assert (method.upper(), path.split("/")[1]) in SCOPES, path
            assert method == "get" or required_scopes(method.upper(), path) is not PUBLIC


def test_metrics_may_be_public_if_said(keyed):
    """A scraper without a key is let in by a setting, to this route alone."""
    client, _, _ = keyed(public_metrics=True)
    assert client.get("/metrics").status_code == 200
    assert client.get("/models").status_code == 401
    assert STRANGER.scopes == ()


def test_requests_are_counted_by_key(keyed):
    """What a key was answered and refused stands under its id; a stranger's requests stand under none."""
    client, store, ask = keyed(public_metrics=True)
    key, token = store.create("shop", [Scope.FORECAST])
    assert ask(token, "GET", "/models").status_code == 200
    assert ask(token, "GET", "/jobs").status_code == 403
    assert ask(None, "GET", "/models").status_code == 401
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("gradcast_key_requests_total{")]
    assert sorted(lines) == [
        f'gradcast_key_requests_total{{key="{key.id}",outcome="answered"}} 1.0',
        f'gradcast_key_requests_total{{key="{key.id}",outcome="refused"}} 1.0',
    ]


def test_keys_cannot_flood_the_metrics(monkeypatch):
    """Beyond so many keys, the others share one line."""
    monkeypatch.setattr("app.services.metrics.MAX_KEYS", 2)
    metrics = ServiceMetrics()
    for key_id in ("a", "b", "c", "d", "a"):
        metrics.observe_key(key_id, is_refused=False)
    (family,) = metrics.key_requests.collect()
    counts = {sample.labels["key"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    assert counts == {"a": 2.0, "b": 1.0, "others": 2.0}


def test_a_job_carries_its_key_which_only_its_owner_and_admins_see(keyed, uploaded, tmp_path):
    """Ada's jobs do not shut the door on Bob's one, who comes before her second; each is told the own name, an admin all."""
    _, store, ask = keyed(max_waiting_jobs=2)
    body = {"dataset_id": uploaded(tmp_path / "jobs")}
    tokens = {name: store.create(name, [Scope.TRAIN])[1] for name in ("ada", "bob")}
    tokens["root"] = store.create("root", [Scope.ADMIN])[1]
    ids = [ask(tokens["ada"], "POST", "/jobs", json=body).json()["id"] for _ in range(2)]
    assert ask(tokens["ada"], "POST", "/jobs", json=body).json()["code"] == "queue_full"
    own = ask(tokens["bob"], "POST", "/jobs", json=body).json()
    assert (own["user"], own["place"]) == ("bob", 2)

    def seen(name):
        return {job["id"]: (job["user"], job["place"]) for job in ask(tokens[name], "GET", "/jobs").json()["jobs"]}

    assert seen("root") == {ids[0]: ("ada", 1), own["id"]: ("bob", 2), ids[1]: ("ada", 3)}
    assert seen("bob") == {ids[0]: (None, 1), own["id"]: ("bob", 2), ids[1]: (None, 3)}
    assert ask(tokens["bob"], "GET", f"/jobs/{ids[0]}").json()["user"] is None
    assert ask(tokens["bob"], "POST", f"/jobs/{ids[0]}/cancel").json()["user"] is None
    assert '"user": null' in ask(tokens["bob"], "GET", f"/jobs/{ids[0]}/events").text
