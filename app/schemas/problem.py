"""The problem document of RFC 9457, as the OpenAPI page shows it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from app.errors import MEDIA_TYPE, PROBLEMS


class FieldProblemBody(BaseModel):
    """One field at fault."""

    path: str
    """Dotted path into the request."""
    code: str
    """Stable identifier."""
    message: str
    """What it must be; never the data."""


class ProblemBody(BaseModel):
    """An error. `code` is stable; `detail` and messages are for people."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblemBody] = []
    """The first five fields at fault."""
    num_errors: int = 0
    """Fields at fault in all."""


def build_problem_docs(*codes: str) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these problem codes, grouped by status, one example each."""
    responses: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, title = PROBLEMS[code]
        response = responses.setdefault(
            status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}, "examples": {}}},
            },
        )
        response["description"] = "; ".join(filter(None, (response["description"], f"`{code}`: {title}")))
        example = {
            "type": f"urn:gradcast:problem:{code}",
            "title": title,
            "status": status,
            "detail": f"{title}.",
            "code": code,
        }
        response["content"][MEDIA_TYPE]["examples"][code] = {"value": example}
        if status in (429, 503):
            response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return responses
