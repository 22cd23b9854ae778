"""A client of the service: typed answers, the standard library below, and neither torch nor a web framework.

client = Client("http://127.0.0.1:8000", key="gradcast_...")
answer = client.forecast([{"unique_id": "us_gasoline"}], model="gasoline", level=[80])
answer.forecasts[0].mean
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from app.schemas.datasets import DatasetBody, DatasetList
from app.schemas.forecast import ForecastResponse
from app.schemas.gradients import GradientsBody
from app.schemas.jobs import JobBody, JobList, PromotionBody
from app.schemas.models import ModelDetail, ModelList

Body = TypeVar("Body", bound=BaseModel)
RETRIED = (429, 503)


class ServiceError(Exception):
    """The service refused.

    Attributes:
        status: HTTP status.
        code: Stable identifier; see the HTTP reference. `unreachable` if there was no answer.
        detail: The sentence for people.
        document: The whole problem document.
        request_id: By which the service's log knows the request.
    """

    def __init__(self, status: int, document: Mapping[str, Any], request_id: str | None = None) -> None:
        self.status = status
        self.code = str(document.get("code", "unknown"))
        self.detail = str(document.get("detail", "The service did not say why."))
        self.document = dict(document)
        self.request_id = request_id
        super().__init__(f"{self.code} ({status}): {self.detail}")


class Client:
    """Asks one service; may be shared by threads.

    Args:
        base_url: Where it is.
        key: Token of `gradcast keys create`; None if the service is open.
        timeout_seconds: For one request.
        patience_seconds: How long to try again, as `Retry-After` says, while the service is busy or not ready.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        patience_seconds: float = 10.0,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._timeout_seconds = timeout_seconds
        self._patience_seconds = patience_seconds

    def forecast(
        self,
        series: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        horizon: int | None = None,
        level: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
    ) -> ForecastResponse:
        """Forecast series, each as in `POST /forecast`.

        A series that cannot be forecast carries its `error`; the others are there.

        Raises:
            ServiceError: If the request as a whole was refused.
        """
        asked = {"model": model, "horizon": horizon, "level": level, "quantiles": quantiles}
        body = {name: value for name, value in asked.items() if value is not None} | {"series": list(series)}
        return self._ask(ForecastResponse, "POST", "/forecast", body)

    def models(self) -> ModelList:
        """Every model that is served."""
        return self._ask(ModelList, "GET", "/models")

    def model(self, name: str) -> ModelDetail:
        """One model with its backtest beside the baselines."""
        return self._ask(ModelDetail, "GET", f"/models/{_quote(name)}")

    def promote(self, name: str, version: int, override: str | None = None) -> PromotionBody:
        """Make a version champion, if the gate agrees or an `override` gives a reason."""
        body = {"version": version} | ({} if override is None else {"override": override})
        return self._ask(PromotionBody, "POST", f"/models/{_quote(name)}/promote", body)

    def upload(self, data: Path | bytes, name: str | None = None, **columns: str) -> DatasetBody:
        """Upload a table.

        Args:
            data: The file, or its content.
            name: What it is called; the file's own name if None.
            columns: `id_col`, `time_col`, `target_col`, `freq`, where they are not found without doubt.
        """
        content = data if isinstance(data, bytes) else data.read_bytes()
        called = name or ("data.csv" if isinstance(data, bytes) else data.name)
        query = urllib.parse.urlencode({"name": called, **columns})
        return self._ask(DatasetBody, "POST", f"/datasets?{query}", content)

    def datasets(self) -> DatasetList:
        """Every data set, the newest first."""
        return self._ask(DatasetList, "GET", "/datasets")

    def remove_dataset(self, dataset_id: str) -> None:
        """Delete a data set."""
        self._send("DELETE", f"/datasets/{_quote(dataset_id)}", None)

    def train(self, dataset_id: str, config: Mapping[str, Any] | None = None, promote: bool = False) -> JobBody:
        """Queue a training; `config` as in the YAML file of `gradcast train`."""
        body = {"dataset_id": dataset_id, "config": dict(config or {}), "promote": promote}
        return self._ask(JobBody, "POST", "/jobs", body)

    def jobs(self) -> JobList:
        """The newest two hundred trainings."""
        return self._ask(JobList, "GET", "/jobs")

    def job(self, job_id: str) -> JobBody:
        """One training."""
        return self._ask(JobBody, "GET", f"/jobs/{_quote(job_id)}")

    def watch(self, job_id: str, every_seconds: float = 2.0) -> Iterator[JobBody]:
        """A training as it changes, until it has ended."""
        while True:
            job = self.job(job_id)
            yield job
            if job.state not in ("pending", "running"):
                return
            time.sleep(every_seconds)

    def cancel(self, job_id: str) -> JobBody:
        """Stop a training, with a checkpoint."""
        return self._ask(JobBody, "POST", f"/jobs/{_quote(job_id)}/cancel", b"")

    def resume(self, job_id: str) -> JobBody:
        """Go on with a stopped training."""
        return self._ask(JobBody, "POST", f"/jobs/{_quote(job_id)}/resume", b"")

    def gradients(self, run_id: str) -> GradientsBody:
        """How a run learned: verdict, norms, lag curves, findings."""
        return self._ask(GradientsBody, "GET", f"/runs/{_quote(run_id)}/gradients")

    def _ask(self, kind: type[Body], method: str, path: str, body: Mapping[str, Any] | bytes | None = None) -> Body:
        return kind.model_validate_json(self._send(method, path, body))

    def _send(self, method: str, path: str, body: Mapping[str, Any] | bytes | None) -> bytes:
        content = json.dumps(body).encode() if isinstance(body, Mapping) else body
        kind = "application/json" if isinstance(body, Mapping) else "application/octet-stream"
        give_up_at = time.monotonic() + self._patience_seconds
        while True:
            request = urllib.request.Request(self._base_url + path, content, method=method)  # noqa: S310  the user's own URL
            for name, value in self._headers.items():
                # A redirection to another host does not take the key along.
                request.add_unredirected_header(name, value)
            if content:
                request.add_header("Content-Type", kind)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_seconds) as answer:  # noqa: S310  the user's own URL
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                wait_seconds = _retry_after(error)
                if wait_seconds is None or time.monotonic() + wait_seconds > give_up_at:
                    raise _as_service_error(error) from None
                time.sleep(wait_seconds)
            except (urllib.error.URLError, TimeoutError) as error:
                reason = getattr(error, "reason", error)
                detail = f"{self._base_url} must answer, but does not: {reason}."
                raise ServiceError(0, {"code": "unreachable", "detail": detail}) from None


def _quote(part: str) -> str:
    return urllib.parse.quote(part, safe="")


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    value = error.headers.get("Retry-After", "")
    return float(value) if error.code in RETRIED and value.isdecimal() else None


def _as_service_error(error: urllib.error.HTTPError) -> ServiceError:
    with error:
        try:
            document = json.loads(error.read())
        except ValueError:
            document = {}
    return ServiceError(error.code, document if isinstance(document, dict) else {}, error.headers.get("X-Request-Id"))
