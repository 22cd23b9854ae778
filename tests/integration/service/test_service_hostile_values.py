"""Values that have broken other services: each gets a clear answer, soon."""

from __future__ import annotations

import json
import time

import pytest

from tests.integration.service.service_bundles import HORIZON, series

PATHS = [
    "../../etc/passwd", "..\\..\\x", "/etc/passwd", "a/../b", "%2e%2e%2f", "a\u202eb", "e\u0301" * 40, "x" * 5000, "C:\\x",
    "\U0001f4a5",
]  # fmt: skip


def send(client, content):
    """The answer, with the processor's seconds that it took."""
    began = time.process_time()
    answer = client.post("/forecast", content=content, headers={"Content-Type": "application/json"})
    assert time.process_time() - began < 5.0
    return answer


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, '{"series":' + "[" * 100_000, "[" * 100_000 + "]" * 100_000])
def test_depth_is_refused(client, text):
    """JSON nested a hundred thousand times over is a 400 or a 422, not a crash."""
    answer = send(client, text)
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("json_invalid", "request_invalid")
    job = client.post("/jobs", content=text, headers={"Content-Type": "application/json"})
    assert job.status_code in (400, 413, 422)


NUMBERS = ["1e308", "-1e308", "1" + "0" * 308, "1e400", "1" + "0" * 5000, "NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_beyond_float32_are_named(client, number):
    """As a value they are that series' own error, or no JSON at all; nothing that is answered holds NaN or Inf."""
    body = json.dumps({"model": "plain", "series": [series()]}).replace('"y": [', f'"y": [{number}, ', 1)
    answer = send(client, body)
    assert answer.status_code in (400, 422)
    assert "NaN" not in answer.text
    assert "Infinity" not in answer.text


@pytest.mark.parametrize("horizon", [0, -1, -(10**18), 10**9, 10**18, 10**308, 1.5, "many", True, [3]])
def test_horizons_that_no_model_has_are_refused(client, horizon):
    """Negative, huge, broken: a 422 that names the field or the model's limit, before anything is allocated for it."""
    answer = send(client, json.dumps({"model": "plain", "horizon": horizon, "series": [series()]}))
    assert answer.status_code in (400, 422)
    assert "horizon" in answer.text or answer.json()["code"] == "json_invalid"


@pytest.mark.parametrize("name", PATHS)
def test_names_that_look_like_paths_are_only_names(client, name):
    """A series may be called anything, and the answer gives the name back; a model of that name does not exist."""
    answer = send(client, json.dumps({"model": "plain", "series": [series(name)]}))
    if answer.status_code == 200:
        (forecast,) = answer.json()["forecasts"]
        assert forecast["unique_id"] == name
        assert len(forecast["mean"]) == HORIZON
    else:
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    missing = send(client, json.dumps({"model": name, "series": [series()]}))
    assert (missing.status_code, missing.json()["code"]) in ((404, "model_not_found"), (422, "request_invalid"))
