"""The OpenAPI document is complete, its examples are true, and requests made from it never meet a surprise."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from pydantic import BaseModel, TypeAdapter

from app.main import create_app
from app.routes import datasets, forecast, health, jobs, metrics, models, protocols, runs
from app.schemas.examples import ANSWERS, PARAMETERS
from app.settings import ServiceSettings
from tests.integration.service.live_service import running

NUM_EXAMPLES = int(os.environ.get("GRADCAST_FUZZ_EXAMPLES", "6"))
# Each upload is audited in a process of its own, and takes a second.
SLOW = "/datasets"
MODULES = (datasets, forecast, health, jobs, metrics, models, protocols, runs)


@pytest.fixture(scope="module")
def document():
    return create_app(ServiceSettings(bundle=Path("bundle"))).openapi()


def operations(document):
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_route_has_an_example_of_its_answer(document):
    """Each success with a body has one, no example belongs to a route that is not there, and parameters in paths have one."""
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if status < "300" and response.get("content"):
                assert status in ANSWERS[name], (name, status)
                assert all("example" in content for content in response["content"].values())
            if status >= "400":
                assert all(content["examples"] for content in response["content"].values())
        assert operation["summary"]
        assert operation["description"]
        for parameter in operation.get("parameters", ()):
            assert parameter["in"] != "path" or parameter["example"] == PARAMETERS[parameter["name"]]
    assert set(ANSWERS) <= {name for name, _ in operations(document)}


def test_examples_of_answers_fit_their_models():
    """Every example of a JSON answer is one that the route's own model accepts, without a field too many or too few."""
    checked = 0
    for route in (route for module in MODULES for route in module.router.routes):
        if not isinstance(route, APIRoute) or route.response_model is None:
            continue
        for method in route.methods:
            for example in ANSWERS.get(f"{method} {route.path}", {}).values():
                read = TypeAdapter(route.response_model).validate_python(example, extra="forbid")
                assert not isinstance(read, BaseModel) or set(example) <= set(type(read).model_fields)
                checked += 1
    assert checked >= 15


def test_every_route_says_what_it_asks_of_a_caller(document):
    """Routes behind the guard document 401, 403, 429 with Retry-After, and the scopes that open them; others nothing."""
    for name, operation in operations(document):
        is_guarded = bool(operation["security"])
        assert is_guarded == (name not in ("GET /livez", "GET /readyz", "GET /ping"))
        assert {"421", "500"} <= set(operation["responses"])
        assert ({"401", "403", "429"} <= set(operation["responses"])) == is_guarded
        if is_guarded:
            assert "admin" in operation["security"][0]["key"]
            assert "Retry-After" in operation["responses"]["429"]["headers"]


@pytest.fixture(scope="module")
def address(shared_store, tmp_path_factory):
    """A server without workers, on a free port."""
    jobs = tmp_path_factory.mktemp("fuzzed")
    settings = ServiceSettings(bundle=shared_store, jobs_directory=jobs, job_workers=0, poll_seconds=1000.0)
    with running(settings) as address:
        yield address


@pytest.mark.network
@pytest.mark.filterwarnings("ignore")
def test_requests_made_from_the_document_meet_no_surprise(address):
    """Schemathesis on every route: no 5xx, no status, content type or body that the document does not have."""
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    num_routes = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        is_slow = operation.method.upper() == "POST" and operation.path == SLOW
        count = max(2, NUM_EXAMPLES // 10) if is_slow else NUM_EXAMPLES
        for mode in schemathesis.GenerationMode:

            @settings(
                max_examples=count, deadline=None, database=None, derandomize=NUM_EXAMPLES < 100, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                case.call_and_validate(checks=checks, timeout=30)

            # A route without parameters and body cannot be asked wrongly.
            is_fixed = not operation.body and not list(operation.iter_parameters())
            with suppress(Unsatisfiable) if is_fixed and mode.is_negative else nullcontext():
                ask()
        num_routes += 1
    assert num_routes == len({name for name, _ in operations(create_app(ServiceSettings(bundle=Path("b"))).openapi())})
