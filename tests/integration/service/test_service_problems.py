"""Everything that is refused: as a problem document, with a stable code and the field's path, without the data."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import zstandard

from app.errors import MAX_SHOWN, PROBLEMS, SERIES_PROBLEMS, WARNINGS
from tests.integration.service.service_bundles import (
    CONTEXT,
    HORIZON,
    TestClient,
    full_series,
    series,
    write_bundle,
)

SECRET = 987654.25
SECRET_TEXT = "confidential-value"


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The shape of RFC 9457, on every error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["code"] == code
    assert document["status"] == status == PROBLEMS[code].status
    assert document["type"] == f"urn:gradcast:problem:{code}"
    assert document["title"] == PROBLEMS[code].title
    assert document["detail"]
    for field in document.get("errors", ()):
        assert set(field) == {"path", "code", "message"}
        assert field["path"]
    return document


def post(client: TestClient, body: Any) -> Any:
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return client.post("/forecast", content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        ({}, "series", "missing"),
        ({"series": []}, "series", "too_short"),
        ({"series": {}}, "series", "list_type"),
        ({"series": [series()], "horizon": 0}, "horizon", "greater_than_equal"),
        ({"series": [series()], "horizon": "3"}, "horizon", "int_type"),
        ({"series": [series()], "level": [100]}, "level.0", "less_than"),
        ({"series": [series()], "quantiles": [0.0]}, "quantiles.0", "greater_than"),
        ({"series": [series()], "levels": [80]}, "levels", "extra_forbidden"),
        ({"series": [series(colour="red")]}, "series.0.colour", "extra_forbidden"),
        ({"series": [series(), series("b", y=[1.0, "x"])]}, "series.1.y.1", "float_type"),
        ({"series": [series(y=[1.0, True])]}, "series.0.y.1", "float_type"),
        ({"series": [series(unique_id=7)]}, "series.0.unique_id", "string_type"),
        ({"series": [series(unique_id="")]}, "series.0.unique_id", "string_too_short"),
        ({"series": [series(futr_exog={"temp": [[1]]})]}, "series.0.futr_exog.temp.0", "float_type"),
        ({"series": [series(stat_exog={"float": None})]}, "series.0.stat_exog.float", "float_type"),
        ({"series": [series(ds=[None])]}, "series.0.ds.0", "string_type"),
    ],
)
def test_a_request_outside_the_schema_is_refused_with_its_path(
    client: TestClient, body: Any, path: str, code: str
) -> None:
    """Missing, extra, mistyped and out-of-range fields are each named by their path."""
    document = assert_problem(post(client, body), 422, "request_invalid")
    assert [(field["path"], field["code"]) for field in document["errors"]] == [(path, code)]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["y", "futr_exog", "stat_exog"])
def test_numbers_that_are_none_are_refused(client: TestClient, number: str, place: str) -> None:
    """NaN and Infinity, which JSON does not have but Python writes, are refused wherever they stand."""
    item: dict[str, Any] = series()
    item[place] = ["HERE"] if place == "y" else {"x": "HERE" if place == "stat_exog" else ["HERE"]}
    body = json.dumps({"series": [item]}).replace('"HERE"', number)
    document = assert_problem(post(client, body), 422, "request_invalid")
    assert document["errors"][0]["path"].startswith(f"series.0.{place}")


@pytest.mark.parametrize("body", ["", "{", "nonsense", b"\xff\xfe", '{"series": [}', "[" * 100_000])
def test_a_body_that_is_no_json_is_a_400(client: TestClient, body: str | bytes) -> None:
    """Broken, binary and absurdly nested bodies are told to be no JSON."""
    assert_problem(post(client, body), 400, "json_invalid")


@pytest.mark.parametrize("body", ["null", "[]", '"text"', "3"])
def test_json_that_is_no_object_is_invalid(client: TestClient, body: str) -> None:
    """JSON of another shape is a 422."""
    document = client.post("/forecast", content=body).json()
    assert document["code"] == "request_invalid"


def test_a_flood_of_mistakes_is_counted_not_listed(client: TestClient) -> None:
    """Five offenders are shown, the rest is a number, and the answer stays small."""
    body = {"series": [series(f"s{number}", wrong=1) for number in range(50)]}
    response = post(client, body)
    document = assert_problem(response, 422, "request_invalid")
    assert len(document["errors"]) == MAX_SHOWN
    assert document["num_errors"] == 50
    assert len(response.content) < 2000


def test_a_long_bad_array_is_one_mistake(client: TestClient) -> None:
    """A hundred thousand bad values cost one message, not a hundred thousand."""
    body = json.dumps({"series": [series(y=["x"] * 100_000)]})
    document = assert_problem(post(client, body), 422, "request_invalid")
    assert document["num_errors"] == 1


SERIES_CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("full", "covariate_missing", full_series(futr_exog={"temp": [1.0] * (CONTEXT + HORIZON)})),
    ("full", "covariate_missing", full_series(hist_exog={})),
    ("full", "covariate_missing", full_series(stat_exog={"size": 1.0})),
    ("plain", "covariate_unknown", series(futr_exog={"wind": [1.0] * (CONTEXT + HORIZON)})),
    ("plain", "covariate_unknown", series(stat_exog={"wind": 1.0})),
    ("full", "covariate_invalid", full_series(stat_exog={"size": SECRET_TEXT, "kind": "a"})),
    ("full", "length_mismatch", full_series(hist_exog={"flow": [SECRET]})),
    ("full", "length_mismatch", full_series(horizon=HORIZON - 1)),
    ("full", "length_mismatch", full_series(horizon=HORIZON + 1)),
    ("plain", "length_mismatch", series(start=None, ds=["2026-01-01T00:00:00"])),
    ("plain", "series_unknown", {"unique_id": SECRET_TEXT}),
    ("plain", "series_empty", series(y=[])),
    ("plain", "series_empty", series(y=[None, None])),
    ("plain", "series_empty", series(y=[SECRET] + [None] * CONTEXT)),
    ("plain", "timestamps_missing", series(start=None)),
    ("plain", "timestamps_conflict", series(ds=["2026-01-01T00:00:00"] * CONTEXT)),
    ("plain", "timestamps_conflict", {"unique_id": "known", "start": "2026-01-01T00:00:00"}),
    ("plain", "timestamps_invalid", series(start=SECRET_TEXT)),
    ("plain", "timestamps_invalid", series(start=5)),
    ("plain", "timestamps_invalid", series(start="2026-13-45T00:00:00")),
    ("plain", "timestamps_invalid", series(start="2026-01-01T00:00:00Z")),
    ("plain", "timestamps_invalid", series(start="9999-12-31T20:00:00")),
    (
        "plain",
        "timestamps_unordered",
        series(start=None, ds=["2026-01-01", "2026-01-02", "2026-01-02"], y=[1.0, 2.0, 3.0]),
    ),
    ("plain", "timestamps_unordered", series(start=None, ds=["2026-01-02", "2026-01-01"], y=[1.0, 2.0])),
    ("plain", "frequency_mismatch", series(freq="D")),
    ("plain", "frequency_mismatch", series(freq="nonsense")),
    ("plain", "frequency_mismatch", series(start=None, ds=["2026-01-01T00:00", "2026-01-01T00:30"], y=[1.0, 2.0])),
    ("plain", "series_too_long", series(start=None, ds=["0001-01-01T00:00", "9999-01-01T00:00"], y=[1.0, 2.0])),
    ("plain", "value_out_of_range", series(y=[SECRET, 1e39])),
]


@pytest.mark.parametrize(
    ("model", "code", "item"), SERIES_CASES, ids=[f"{case[1]}-{i}" for i, case in enumerate(SERIES_CASES)]
)
def test_a_bad_series_carries_its_error_and_sinks_nobody(
    client: TestClient, model: str, code: str, item: dict[str, Any]
) -> None:
    """Between two good series a bad one gets code and path; the others get what they get without it."""
    good = full_series if model == "full" else series
    item = {key: value for key, value in item.items() if value is not None}
    clean = post(client, {"model": model, "series": [good("x"), good("z")]}).json()
    mixed = post(client, {"model": model, "series": [good("x"), item | {"unique_id": item["unique_id"]}, good("z")]})
    assert mixed.status_code == 200, mixed.text
    document = mixed.json()
    assert document["status"] == "partial"
    assert [document["forecasts"][0], document["forecasts"][2]] == clean["forecasts"]
    error = document["forecasts"][1]["error"]
    assert error["code"] == code
    assert error["path"].startswith("series.1")
    assert code in SERIES_PROBLEMS
    assert document["forecasts"][1]["mean"] == []


@pytest.mark.parametrize(
    ("model", "code", "item"), SERIES_CASES, ids=[f"{case[1]}-{i}" for i, case in enumerate(SERIES_CASES)]
)
def test_nothing_to_forecast_is_a_422_that_keeps_the_data_to_itself(
    client: TestClient, caplog: pytest.LogCaptureFixture, model: str, code: str, item: dict[str, Any]
) -> None:
    """If every series is bad the request fails; neither the answer nor the log repeats a value."""
    item = {key: value for key, value in item.items() if value is not None}
    with caplog.at_level(logging.DEBUG):
        response = post(client, {"model": model, "series": [item]})
    document = assert_problem(response, 422, "nothing_to_forecast")
    assert document["errors"][0]["code"] == code
    for text in (response.text, caplog.text):
        assert SECRET_TEXT not in text
        assert str(SECRET) not in text


def test_a_series_twice_in_one_request_is_refused(client: TestClient) -> None:
    """The first of two equal names is forecast, the second refused with the place of the first."""
    document = post(client, {"model": "plain", "series": [series("a"), series("a")]}).json()
    assert [forecast["error"] and forecast["error"]["code"] for forecast in document["forecasts"]] == [
        None,
        "unique_id_duplicate",
    ]


def test_a_forecast_that_overflows_is_that_series_error(client: TestClient) -> None:
    """Values that float32 holds but whose spread it does not end in an error, never in a null or Infinity."""
    wild = series("wild", y=[3e38, -3e38] * 6)
    document = post(client, {"model": "plain", "series": [wild, series("tame")]}).json()
    assert document["forecasts"][0]["error"]["code"] == "forecast_not_finite"
    assert document["forecasts"][1]["error"] is None
    assert_problem(post(client, {"model": "plain", "series": [wild]}), 422, "nothing_to_forecast")


def test_validation_never_repeats_the_data(client: TestClient) -> None:
    """A body that fails the schema is not found in the answer, in whatever field the value stood."""
    for item in (series(y=[SECRET, SECRET_TEXT]), series(ds=[SECRET]), series(start={"x": SECRET_TEXT}), SECRET_TEXT):
        response = post(client, {"series": [item], "horizon": SECRET})
        assert response.status_code == 422
        assert SECRET_TEXT not in response.text
        assert str(SECRET) not in response.text


@pytest.mark.parametrize(
    ("request_part", "status", "code", "says"),
    [
        ({"horizon": HORIZON + 1}, 422, "horizon_too_long", f"at most {HORIZON}"),
        ({"level": [95]}, 422, "level_unavailable", "up to 80"),
        ({"quantiles": [0.5, 0.95]}, 422, "level_unavailable", "0.1, 0.25, 0.5, 0.75, 0.9"),
        ({"model": "boat"}, 404, "model_not_found", "boat"),
        ({"model": "plain@nobody"}, 404, "model_not_found", "nobody"),
        ({"model": "plain/7"}, 404, "model_not_found", "plain/7"),
        ({"model": "../../etc/passwd"}, 404, "model_not_found", "name@alias"),
    ],
)
def test_what_the_model_cannot_do_is_said_with_what_it_can(
    client: TestClient, request_part: dict[str, Any], status: int, code: str, says: str
) -> None:
    """A horizon too long, a level not trained, a model unknown: the answer names the limit."""
    response = post(client, {"model": "plain", "series": [series()]} | request_part)
    document = assert_problem(response, status, code)
    assert says in document["detail"]


def test_the_routes_that_are_not_there(client: TestClient) -> None:
    """Unknown paths and methods are problems too, and unknown models have their own code."""
    assert_problem(client.get("/nowhere"), 404, "route_not_found")
    response = client.get("/forecast")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert_problem(client.get("/models/boat"), 404, "model_not_found")


def test_a_body_too_large_is_refused_before_it_is_read(tmp_path: Path, launch: Any) -> None:
    """By its declared length, or while it streams without one."""
    client = launch(write_bundle(tmp_path / "m"), max_body_bytes=500)
    assert_problem(post(client, json.dumps({"series": [series(num_steps=200)]})), 413, "body_too_large")
    chunks = iter([b"x" * 400, b"x" * 400])
    assert_problem(client.post("/forecast", content=chunks), 413, "body_too_large")
    assert post(client, {"series": [series()]}).status_code == 200


def test_a_request_of_too_many_or_too_long_series_is_refused(tmp_path: Path, launch: Any) -> None:
    """Both limits come from the settings: the number sinks the request, the length its own series."""
    client = launch(write_bundle(tmp_path / "m"), max_series=2, max_series_length=20)
    document = assert_problem(post(client, {"series": [series(name) for name in "abc"]}), 413, "too_many_series")
    assert document["errors"][0]["path"] == "series"
    document = post(client, {"series": [series("a"), series("b", num_steps=21)]}).json()
    assert document["forecasts"][1]["error"]["code"] == "series_too_long"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_body_is_what_it_was(client: TestClient, encoding: str) -> None:
    """Packed or not, in one piece or two, the answer is the same; what is cut off or something else is a 400, a bomb a 413."""
    body = json.dumps({"series": [series()]}).encode()
    pack = {"gzip": gzip.compress, "zstd": zstandard.compress}[encoding]

    def send(content: bytes) -> Any:
        return client.post("/forecast", content=content, headers={"Content-Encoding": encoding})

    expected = client.post("/forecast", content=body).json()
    for content in (pack(body), pack(body[:100]) + pack(body[100:])):
        assert send(content).json() == expected
    for content in (b"x", b"plain text", pack(body)[2:]):
        assert_problem(send(content), 400, "encoding_invalid")
    assert send(pack(body)[:-12]).status_code == 400
    assert_problem(send(pack(bytes(200 * 2**20))), 413, "body_too_large")


def test_an_unknown_encoding_is_refused(client: TestClient) -> None:
    """It is a 415 that says what there is."""
    for encoding in ("br", "gzip, gzip", "../zstd"):
        response = client.post("/forecast", content=b"x", headers={"Content-Encoding": encoding})
        assert_problem(response, 415, "content_encoding_unsupported")
        assert response.headers["accept-encoding"] == "gzip, zstd"


def test_an_unexpected_failure_is_a_500_with_an_incident(
    tmp_path: Path, launch: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug shows nothing of itself but a number that the log knows."""
    client = launch(write_bundle(tmp_path / "m"))

    def fail(*_: object) -> None:
        raise RuntimeError(SECRET_TEXT)

    monkeypatch.setattr("app.services.forecasting.encode_all", fail)
    document = assert_problem(post(client, {"series": [series()]}), 500, "internal_error")
    assert SECRET_TEXT not in json.dumps(document)
    assert document["incident"] in caplog.text


def test_every_code_is_documented(repository: Path) -> None:
    """Codes of problems, series and warnings are unique names with a sentence each."""
    for code in (*PROBLEMS, *SERIES_PROBLEMS, *WARNINGS):
        assert code == code.lower()
        assert code.replace("_", "").isalpha()
    assert not set(PROBLEMS) & set(SERIES_PROBLEMS)
