"""`GET /` and the pages behind it: frames rendered here, filled from the JSON routes, working offline."""

from __future__ import annotations

import functools
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from app.dependencies import settings_of
from app.errors import ProblemError
from app.settings import ServiceSettings

if TYPE_CHECKING:
    from jinja2 import Environment

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
Settings = Annotated[ServiceSettings, Depends(settings_of)]

FOLDER = Path(__file__).resolve().parent.parent / "web"
STATIC = FOLDER / "static"
# Nothing but this service's own files is loaded or run: no script and no style stands in the markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_IDENTITY = re.compile(r"[A-Za-z0-9-]{1,64}")


@router.get("/")
def home(settings: Settings) -> HTMLResponse:
    """Bring a table; models and trainings."""
    return _render("home", settings)


@router.get("/page/data/{identity}")
def data_page(identity: str, settings: Settings) -> HTMLResponse:
    """One data set."""
    return _render("data", settings, id=identity)


@router.get("/page/jobs/{identity}")
def job_page(identity: str, settings: Settings) -> HTMLResponse:
    """One training, live."""
    return _render("job", settings, id=identity)


@router.get("/page/gradients/{identity}")
def gradients_page(identity: str, settings: Settings) -> HTMLResponse:
    """How one run learned."""
    return _render("gradients", settings, id=identity)


@router.get("/page/compare")
def compare_page(request: Request, settings: Settings) -> HTMLResponse:
    """Two runs side by side."""
    wanted = {name: request.query_params.get(name, "") for name in ("first", "second")}
    return _render("compare", settings, **wanted)


@router.get("/docs")
def docs_page(settings: Settings) -> HTMLResponse:
    """Every route with its fields, examples and a form to try it."""
    return _render("docs", settings)


def dashboard_url(settings: ServiceSettings) -> str | None:
    """Where browsers find the MLflow dashboard; None if nobody said."""
    uri = settings.tracking_uri or ""
    url = settings.dashboard_url or uri
    return url if url.startswith(("http://", "https://")) and "@" not in url else None


def _render(page: str, settings: ServiceSettings, **identities: str) -> HTMLResponse:
    if not all(_IDENTITY.fullmatch(identity) for identity in identities.values()):
        raise ProblemError("route_not_found", "There is no such page.")
    template = _environment().get_template(f"{page}.html")
    content = template.render(page=page, data=identities, dashboard_url=dashboard_url(settings), version=_version())
    return HTMLResponse(content, headers=HEADERS)


@functools.cache
def _environment() -> Environment:
    # Not at import: whoever only forecasts does not pay for it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined)


@functools.cache
def _version() -> str:
    try:
        return metadata.version("gradcast")
    except metadata.PackageNotFoundError:
        return "0"
