"""From the body of a request to the body of its response."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from app.errors import FieldProblem, ProblemError, normalize_field_problems
from app.schemas.forecast import ForecastRequest
from app.services.catalog import Catalog
from app.services.drift import DriftMonitor
from app.services.encoding import EncodedSeries, RequestEncoder
from app.services.engine import InferenceEngine
from app.services.levels import Levels, build_levels
from app.services.loading import Cold, LoadedModel, Resolved
from app.services.metrics import ServiceMetrics
from app.services.series_error import SeriesError
from app.settings import ServiceSettings
from models.forecaster import ForecastInputs
from training.errors import ModelNotFoundError, TrackingError

# A hop to another thread costs more than preparing a small request; a large one would hold up everybody else.
MAX_INLINE_BYTES = 32 * 1024

T = TypeVar("T")
Outcome = EncodedSeries | SeriesError


@dataclass(frozen=True)
class Prepared:
    """A request on its way through the engine.

    Attributes:
        outcomes: A window or a problem per series of the request.
        inputs: The windows; None if there are none.
        levels: What to answer with.
        horizon: Steps asked for.
    """

    outcomes: tuple[Outcome, ...]
    inputs: ForecastInputs | None
    levels: Levels
    horizon: int


class ForecastService:
    """Parses, validates, encodes, forecasts and answers.

    Args:
        catalog: The models.
        engine: What runs them.
        metrics: Where refused series are counted.
        settings: Limits.
    """

    def __init__(
        self, catalog: Catalog, engine: InferenceEngine, metrics: ServiceMetrics, settings: ServiceSettings
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._metrics = metrics
        self._settings = settings
        self._preparers = ThreadPoolExecutor(settings.num_preparers, thread_name_prefix="gradcast-prepare")
        self._drift = DriftMonitor()
        metrics.watch_drift(self._drift.rows)
        self._encoders: weakref.WeakKeyDictionary[object, RequestEncoder] = weakref.WeakKeyDictionary()

    def close(self) -> None:
        """Let go of the threads."""
        self._preparers.shutdown(wait=False, cancel_futures=True)

    def validate_open(self) -> None:
        """Refuse before a body is read.

        Raises:
            ProblemError: `draining`, `not_ready` or `queue_full`.
        """
        with self._engine.admission(1):
            pass
        if not self._catalog.loaded:
            detail = f"No model is loaded. {self._catalog.unready_reason}"
            raise ProblemError("not_ready", detail, headers={"Retry-After": "2"})

    async def forecast(self, body: bytes, deadline: float) -> bytes:
        """Answer one request.

        Args:
            body: JSON.
            deadline: `time.monotonic()` at which the caller gives up.

        Returns:
            JSON.

        Raises:
            ProblemError: If the request as a whole cannot be answered.
            GradcastError: If its model is unknown or cannot be loaded.
        """
        is_small = len(body) <= MAX_INLINE_BYTES
        request = await self._run(is_small, lambda: parse_request(body))
        num_series = len(request.series)
        if num_series > self._settings.max_series:
            detail = f"A request must hold at most {self._settings.max_series} series. Send several requests."
            raise ProblemError("too_many_series", detail, [FieldProblem("series", "too_many_series", detail)])
        with self._engine.admission(num_series):
            found = await self._find(request.model)
            prepared = await self._run(is_small, lambda: self._prepare(request, found.model))
            if prepared.inputs is None:
                raise self._nothing_to_forecast(prepared.outcomes)
            quantiles = await self._engine.forecast(
                found.model.version.name, found.model.bundle.forecaster, prepared.inputs, deadline
            )
            return await self._run(is_small, lambda: self._render(request, found, prepared, quantiles))

    async def _run(self, is_small: bool, work: Callable[[], T]) -> T:
        if is_small:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._preparers, work)

    async def _find(self, reference: str | None) -> Resolved:
        try:
            found = self._catalog.find(reference)
        except (ModelNotFoundError, TrackingError):
            # It may have been registered or promoted since the last look.
            if not await asyncio.to_thread(self._catalog.refresh):
                raise
            found = self._catalog.find(reference)
        if isinstance(found, Cold):
            return Resolved(await asyncio.to_thread(self._catalog.pin, found.version), found.alias)
        return found

    def _prepare(self, request: ForecastRequest, model: LoadedModel) -> Prepared:
        network = model.manifest.network
        horizon = network.horizon if request.horizon is None else request.horizon
        if horizon > network.horizon:
            detail = (
                f"horizon must be at most {network.horizon}, the steps that model {model.version.name!r} forecasts."
            )
            raise ProblemError("horizon_too_long", detail, [FieldProblem("horizon", "horizon_too_long", detail)])
        levels = build_levels(request, network.output_levels)
        encoder = self._encoder(model)
        outcomes = encode_all(encoder, request, horizon)
        windows = [outcome for outcome in outcomes if isinstance(outcome, EncodedSeries)]
        inputs = encoder.build_inputs(windows) if windows else None
        if inputs is not None:
            self._drift.observe(model, inputs)
        return Prepared(outcomes, inputs, levels, horizon)

    def _encoder(self, model: LoadedModel) -> RequestEncoder:
        encoder = self._encoders.get(model.bundle.forecaster)
        if encoder is None:
            forecaster, limit = model.bundle.forecaster, self._settings.max_series_length
            encoder = RequestEncoder(model.manifest, forecaster, model.context, limit)
            self._encoders[forecaster] = encoder
        return encoder

    def _nothing_to_forecast(self, outcomes: Sequence[Outcome]) -> ProblemError:
        problems = [outcome for outcome in outcomes if isinstance(outcome, SeriesError)]
        for problem in problems:
            self._metrics.series_errors.labels(problem.code).inc()
        fields = [problem.as_field() for problem in problems]
        detail = "No series of the request can be forecast." if len(fields) > 1 else fields[0].message
        return ProblemError("nothing_to_forecast", detail, fields)

    def _render(
        self, request: ForecastRequest, found: Resolved, prepared: Prepared, quantiles: NDArray[np.float32]
    ) -> bytes:
        model, levels = found.model, prepared.levels
        trained = model.manifest.network.output_levels
        values = levels.read(quantiles[:, : prepared.horizon], trained)
        is_finite = np.asarray(np.isfinite(values).all(axis=(0, 2)))
        outcomes = _with_non_finite(prepared.outcomes, is_finite)
        if all(isinstance(outcome, SeriesError) for outcome in outcomes):
            raise self._nothing_to_forecast(outcomes)
        grid = self._encoder(model).grid
        horizon = model.manifest.network.horizon
        forecasts, row = [], 0
        for index, (series, outcome) in enumerate(zip(request.series, outcomes, strict=True)):
            is_window = isinstance(prepared.outcomes[index], EncodedSeries)
            if isinstance(outcome, SeriesError):
                self._metrics.series_errors.labels(outcome.code).inc()
                forecasts.append(_render_problem(series.unique_id, outcome))
            else:
                stamps = outcome.stamps[len(outcome.stamps) - horizon :][: prepared.horizon]
                forecasts.append(
                    _render_series(series.unique_id, grid.render(stamps), values[:, row], levels, outcome.warnings)
                )
            row += is_window
        is_partial = any(isinstance(outcome, SeriesError) for outcome in outcomes)
        document = {
            "model": _render_model(found),
            "status": "partial" if is_partial else "completed",
            "forecasts": forecasts,
        }
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def parse_request(body: bytes) -> ForecastRequest:
    """Read and validate the body.

    Raises:
        ProblemError: `json_invalid`, or `request_invalid` with the fields at fault.
    """
    try:
        return ForecastRequest.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        fields = normalize_field_problems(details)
    if fields[0].code == "json_invalid":
        raise ProblemError("json_invalid", f"The body must be JSON. {fields[0].message}.")
    raise ProblemError("request_invalid", "The request must fit the schema; see /docs.", fields)


def encode_all(encoder: RequestEncoder, request: ForecastRequest, horizon: int) -> tuple[Outcome, ...]:
    """Encode every series; one that cannot be becomes its problem."""
    outcomes: list[Outcome] = []
    first_place: dict[str, int] = {}
    for index, series in enumerate(request.series):
        path = f"series.{index}"
        first = first_place.setdefault(series.unique_id, index)
        try:
            if first != index:
                message = f"unique_id must be unique in the request; series.{first} has the same."
                raise SeriesError("unique_id_duplicate", f"{path}.unique_id", message)
            outcomes.append(encoder.encode(series, path, horizon))
        except SeriesError as problem:
            outcomes.append(problem)
    return tuple(outcomes)


def _with_non_finite(outcomes: Sequence[Outcome], is_finite: NDArray[np.bool_]) -> list[Outcome]:
    if is_finite.all():
        return list(outcomes)
    checked, row = [], 0
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, EncodedSeries):
            if not is_finite[row]:
                message = "The forecast of this series is not finite: its values are too large or too uneven."
                outcome = SeriesError("forecast_not_finite", f"series.{index}", message)
            row += 1
        checked.append(outcome)
    return checked


def _render_model(found: Resolved) -> dict[str, Any]:
    model = found.model
    return {
        "name": model.version.name,
        "version": model.version.version,
        "alias": found.alias,
        "run_id": model.version.run_id,
        "verdict": model.verdict,
        "reach_steps": model.reach_steps,
        "trained_until": model.manifest.trained_until,
    }


def _render_series(
    unique_id: str,
    ds: list[str] | list[int],
    values: NDArray[np.float32],
    levels: Levels,
    warnings: dict[str, str],
) -> dict[str, Any]:
    # A row of float32 is written with the digits that float32 has, not with those of its float64 neighbour.
    named = list(zip(levels.keys, values, strict=True))
    return {
        "unique_id": unique_id,
        "ds": ds,
        "mean": named[0][1],
        "intervals": dict(named[1 : 1 + levels.num_intervals]),
        "quantiles": dict(named[1 + levels.num_intervals :]),
        "warnings": [{"code": code, "message": message} for code, message in warnings.items()],
        "error": None,
    }


def _render_problem(unique_id: str, problem: SeriesError) -> dict[str, Any]:
    return {
        "unique_id": unique_id,
        "ds": [],
        "mean": [],
        "intervals": {},
        "quantiles": {},
        "warnings": [],
        "error": {"code": problem.code, "message": problem.message, "path": problem.path},
    }
