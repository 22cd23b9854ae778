"""What a key may do: three scopes, and which of them each route asks for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Scope(StrEnum):
    """What a key is for."""

    FORECAST = "forecast"
    """Ask for forecasts, read models and how they learned."""
    TRAIN = "train"
    """Upload data, read it, start, watch and stop trainings; read models and how they learned."""
    ADMIN = "admin"
    """Everything, and alone: promote a version."""


PUBLIC: frozenset[Scope] = frozenset()
_ADMIN = frozenset({Scope.ADMIN})
_TRAIN = frozenset({Scope.TRAIN, Scope.ADMIN})
_FORECAST = frozenset({Scope.FORECAST, Scope.ADMIN})
_ANY = frozenset(Scope)

# By method and first part of the path. What is not named asks for `admin`, so that a route that was forgotten is closed.
SCOPES: Mapping[tuple[str, str], frozenset[Scope]] = {
    # The page and the documents hold nothing: what they show comes from the routes below.
    ("GET", ""): PUBLIC,
    ("GET", "page"): PUBLIC,
    ("GET", "static"): PUBLIC,
    ("GET", "docs"): PUBLIC,
    ("GET", "openapi.json"): PUBLIC,
    ("GET", "livez"): PUBLIC,
    ("GET", "readyz"): PUBLIC,
    ("GET", "ping"): PUBLIC,
    ("GET", "metrics"): _ANY,
    ("GET", "models"): _ANY,
    ("GET", "runs"): _ANY,
    ("POST", "models"): _ADMIN,
    ("GET", "datasets"): _TRAIN,
    ("POST", "datasets"): _TRAIN,
    ("DELETE", "datasets"): _TRAIN,
    ("GET", "jobs"): _TRAIN,
    ("POST", "jobs"): _TRAIN,
    # Every protocol asks the same engine.
    ("POST", "forecast"): _FORECAST,
    ("POST", "invocations"): _FORECAST,
    ("GET", "v1"): _FORECAST,
    ("POST", "v1"): _FORECAST,
    ("GET", "v2"): _FORECAST,
    ("POST", "v2"): _FORECAST,
    ("GET", "model_params"): _FORECAST,
    ("GET", "validate_api_key"): _FORECAST,
    ("POST", "validate_api_key"): _FORECAST,
}


def required_scopes(method: str, path: str) -> frozenset[Scope]:
    """The scopes of which a key needs one; empty = nobody is asked for a key.

    Args:
        method: Of the request.
        path: As the router will see it, decoded; a spelling the router would not match asks for `admin`.
    """
    is_root = path == "/"
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    if not first and not is_root:
        return _ADMIN
    return SCOPES.get((method, first), _ADMIN)
