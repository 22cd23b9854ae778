"""From a request to its answer: find the model, encode the series, wait for the engine."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.errors import FieldProblem, ProblemError, normalize_field_problems
from app.schemas.forecast import ForecastRequest
from app.services.answer import Answer, Outcome, build_answer
from app.services.catalog import Catalog
from app.services.drift import DriftMonitor
from app.services.encoding import EncodedSeries, RequestEncoder
from app.services.engine import InferenceEngine
from app.services.levels import Levels, build_levels
from app.services.loading import Cold, LoadedModel, Resolved
from app.services.metrics import ServiceMetrics
from app.services.rendering import render_json
from app.services.series_error import SeriesError
from app.services.unpacking import unpack
from app.settings import ServiceSettings
from models.forecaster import ForecastInputs
from training.errors import ModelNotFoundError, TrackingError

# A hop to another thread costs more than preparing a small request; a large one would hold up everybody else.
MAX_INLINE_BYTES = 32 * 1024

T = TypeVar("T")


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

    def validate_open(self, num_bytes: int = 0) -> None:
        """Refuse before a body is read.

        Args:
            num_bytes: Its announced size; 0 if unknown.

        Raises:
            ProblemError: `draining`, `not_ready` or `queue_full`.
        """
        self._engine.admission.validate_open(num_bytes)
        if not self._catalog.loaded:
            detail = f"No model is loaded. {self._catalog.unready_reason}"
            raise ProblemError("not_ready", detail, headers={"Retry-After": "2"})

    async def forecast(
        self,
        parse: Callable[[], ForecastRequest],
        num_bytes: int,
        is_small: bool,
        deadline: float,
        render: Callable[[Answer], T],
    ) -> T:
        """Answer one request.

        Args:
            parse: Reads the request; runs in another thread unless it is small.
            num_bytes: Size of its body.
            is_small: Whether parsing, encoding and rendering cost less than a hop to another thread.
            deadline: `time.monotonic()` at which the caller gives up.
            render: Writes the answer; runs where `parse` does.

        Raises:
            ProblemError: If the request as a whole cannot be answered.
            GradcastError: If its model is unknown or cannot be loaded.
        """
        admission = self._engine.admission
        with admission.hold(num_bytes) as ticket:
            request = parse() if is_small else await self._run_aside(parse)
            num_series = len(request.series)
            if num_series > self._settings.max_series:
                detail = f"A request must hold at most {self._settings.max_series} series. Send several requests."
                raise ProblemError("too_many_series", detail, [FieldProblem("series", "too_many_series", detail)])
            admission.resize(ticket, num_bytes, num_series)
            found = await self._find(request.model)
            prepare = partial(self._prepare, request, found.model)
            prepared = prepare() if is_small else await self._run_aside(prepare)
            if prepared.inputs is None:
                raise self._nothing_to_forecast(prepared.outcomes)
            model = found.model
            quantiles = await self._engine.forecast(model.version.name, model.network, prepared.inputs, deadline)
            answer = partial(self._answer, request, found, prepared, quantiles, render)
            content = answer() if is_small else await self._run_aside(answer)
            ticket.is_answered = True
            return content

    async def forecast_json(self, body: bytes, encoding: str | None, deadline: float) -> bytes:
        """JSON in, JSON out; see `forecast`.

        Args:
            body: As it came.
            encoding: How it is compressed, if it is.
            deadline: See there.
        """
        num_bytes, limit = len(body), self._settings.max_body_bytes
        if encoding is not None:
            # How much there is to parse shows later.
            return await self.forecast(
                lambda: parse_request(unpack(body, encoding, limit)), num_bytes, False, deadline, render_json
            )
        is_small = num_bytes <= MAX_INLINE_BYTES
        return await self.forecast(lambda: parse_request(body), num_bytes, is_small, deadline, render_json)

    async def _run_aside(self, work: Callable[[], T]) -> T:
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
        levels = build_levels(request.level, request.quantiles, network.output_levels)
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

    def _answer(
        self,
        request: ForecastRequest,
        found: Resolved,
        prepared: Prepared,
        quantiles: NDArray[np.float32],
        render: Callable[[Answer], T],
    ) -> T:
        levels, horizon = prepared.levels, prepared.horizon
        values = levels.read(quantiles[:, :, :horizon], found.model.manifest.network.output_levels)
        answer = build_answer(
            found, [series.unique_id for series in request.series], prepared.outcomes, values, levels, horizon,
            self._encoder(found.model).timeline,
        )  # fmt: skip
        if answer.is_partial:
            if not answer.num_forecasts:
                raise self._nothing_to_forecast(answer.outcomes)
            for outcome in answer.outcomes:
                if isinstance(outcome, SeriesError):
                    self._metrics.series_errors.labels(outcome.code).inc()
        return render(answer)


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
