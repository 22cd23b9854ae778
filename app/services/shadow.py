"""A challenger beside the champion: the same series, forecast after the champion has answered; scored when the truth arrives.

Nobody waits for the shadow. What the champion answered is laid into a short queue; one thread takes from it while the engine
has nothing else to do, and what does not fit is dropped and counted. Both forecasts are kept, up to a limit. When a later request
for the same series brings a history that covers the forecast's time, that is the truth, and both errors are measured on it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.schemas.forecast import ForecastRequest, SeriesRequest
from app.services.catalog import Catalog
from app.services.encoding import EncodedSeries, RequestEncoder
from app.services.engine import InferenceEngine
from app.services.filling import is_whole
from app.services.levels import build_levels
from app.services.loading import Cold, LoadedModel
from app.services.metrics import ServiceMetrics, ShadowRow
from app.services.series_error import SeriesError
from models.errors import GradcastError

logger = logging.getLogger(__name__)

MAX_WAITING_REQUESTS = 16
MAX_SERIES_PER_REQUEST = 64
IDLE_LOOK_SECONDS = 0.002
STOP_LOOK_SECONDS = 0.2


class Answered(NamedTuple):
    """What the champion answered.

    Attributes:
        model: The champion.
        request: What was asked.
        outcomes: A window or a problem per series of the request.
        means: Point forecasts (B, H) of the B windows.
    """

    model: LoadedModel
    request: ForecastRequest
    outcomes: Sequence[EncodedSeries | SeriesError]
    means: NDArray[np.float32]


class Pair(NamedTuple):
    """Two forecasts of the same steps, and who made them.

    Attributes:
        versions: Of champion and challenger.
        stamps: Timestamps (H,).
        champion: Point forecast (H,).
        challenger: The same.
    """

    versions: tuple[int, int]
    stamps: NDArray[np.int64]
    champion: NDArray[np.float32]
    challenger: NDArray[np.float32]


@dataclass(frozen=True)
class ShadowScore:
    """Errors of two versions on the same steps.

    Attributes:
        versions: Of champion and challenger; the score begins anew with every other pair.
        num_forecasts: Forecasts whose truth has arrived.
        num_steps: Observed steps of these.
        champion_error: Sum of the champion's absolute errors, in the unit of y.
        challenger_error: The same of the challenger.
        num_wins: Forecasts in which the challenger's error was the smaller one.
    """

    versions: tuple[int, int]
    num_forecasts: int = 0
    num_steps: int = 0
    champion_error: float = 0.0
    challenger_error: float = 0.0
    num_wins: int = 0

    @property
    def champion_mae(self) -> float | None:
        """Mean absolute error; None before the first truth."""
        return self.champion_error / self.num_steps if self.num_steps else None

    @property
    def challenger_mae(self) -> float | None:
        """The same of the challenger."""
        return self.challenger_error / self.num_steps if self.num_steps else None

    def add(self, pair: Pair, truth: NDArray[np.float32]) -> ShadowScore:
        """This score and one more forecast.

        Args:
            pair: Both forecasts.
            truth: What came (H,), NaN where nothing was observed.
        """
        is_seen = ~np.isnan(truth)
        champion, challenger = (
            float(np.abs(forecast[is_seen].astype(np.float64) - truth[is_seen]).sum())
            for forecast in (pair.champion, pair.challenger)
        )
        return replace(
            self,
            num_forecasts=self.num_forecasts + 1,
            num_steps=self.num_steps + int(is_seen.sum()),
            champion_error=self.champion_error + champion,
            challenger_error=self.challenger_error + challenger,
            num_wins=self.num_wins + (challenger < champion),
        )


class ChallengerShadow:
    """Forecasts with the version behind an alias, in a thread of its own.

    Args:
        catalog: Where the challenger is found and loaded.
        engine: While it has work, the shadow has none.
        metrics: Where windows and errors are shown.
        alias: Of the challenger.
        max_forecasts: Forecasts kept for their truth; the series not asked for the longest loses its oldest.
        max_series_length: Steps of one series at most.
    """

    def __init__(
        self,
        catalog: Catalog,
        engine: InferenceEngine,
        metrics: ServiceMetrics,
        alias: str,
        max_forecasts: int,
        max_series_length: int,
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._metrics = metrics
        self._alias = alias
        self._max_series_length = max_series_length
        self._kept = KeptForecasts(max_forecasts)
        self._waiting: Queue[Answered] = Queue(MAX_WAITING_REQUESTS)
        self._scores: Mapping[str, ShadowScore] = {}
        self._encoder: tuple[LoadedModel, RequestEncoder] | None = None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="gradcast-shadow", daemon=True)

    def offer(self, answered: Answered) -> None:
        """Lay it into the queue, or count it as dropped."""
        try:
            self._waiting.put_nowait(answered)
        except Full:
            self._count(answered, "dropped", len(answered.means))

    def score(self, name: str) -> ShadowScore | None:
        """How both compare."""
        return self._scores.get(name)

    def rows(self) -> Iterable[ShadowRow]:
        """The scores, as the metrics show them."""
        return [ShadowRow(name, one.num_steps, one.champion_mae, one.challenger_mae) for name, one in self._scores.items()]

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Leave what waits and end the thread."""
        self._is_stopped = True
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._is_stopped:
            try:
                answered = self._waiting.get(timeout=STOP_LOOK_SECONDS)
            except Empty:
                continue
            while self._engine.admitted_windows and not self._is_stopped:  # the champion first
                time.sleep(IDLE_LOOK_SECONDS)
            self._try(answered)

    def _try(self, answered: Answered) -> None:
        try:
            self.work(answered)
        except GradcastError as error:
            logger.info("no shadow of %s: %s", answered.model.version.name, error)
            self._count(answered, "failed", len(answered.means))
        except Exception:
            logger.exception("the shadow of %s failed", answered.model.version.name)
            self._count(answered, "failed", len(answered.means))

    def work(self, answered: Answered) -> None:
        """Score what the request brings the truth of, then forecast it with the challenger.

        Raises:
            GradcastError: If there is no challenger, or none that can be loaded.
        """
        challenger = self._challenger(answered.model.version.name)
        if challenger.version.version == answered.model.version.version:
            return
        encoder = self._encoder_of(challenger)
        versions = (answered.model.version.version, challenger.version.version)
        for series in answered.request.series[:MAX_SERIES_PER_REQUEST]:
            self._score_series(answered.model.version.name, versions, encoder, series)
        self._forecast(answered, versions, challenger, encoder)

    def _challenger(self, name: str) -> LoadedModel:
        found = self._catalog.find(f"{name}@{self._alias}")
        return self._catalog.pin(found.version) if isinstance(found, Cold) else found.model

    def _encoder_of(self, model: LoadedModel) -> RequestEncoder:
        if self._encoder is None or self._encoder[0].bundle is not model.bundle:
            encoder = RequestEncoder(model.manifest, model.bundle.forecaster, model.context, self._max_series_length)
            self._encoder = model, encoder
        return self._encoder[1]

    def _score_series(
        self, name: str, versions: tuple[int, int], encoder: RequestEncoder, series: SeriesRequest
    ) -> None:
        score = self._scores.get(name)
        if score is None or score.versions != versions:
            score = ShadowScore(versions)
        if series.y is not None:
            for pair, truth in self._kept.take(name, series, encoder):
                if pair.versions == versions:
                    score = score.add(pair, truth)
        self._scores = {**self._scores, name: score}

    def _forecast(
        self, answered: Answered, versions: tuple[int, int], challenger: LoadedModel, encoder: RequestEncoder
    ) -> None:
        network = challenger.manifest.network
        steps = min(answered.means.shape[1], network.horizon)
        windows: list[tuple[str, EncodedSeries, NDArray[np.float32], EncodedSeries]] = []
        for unique_id, champion_window, means, series, path in _answered_series(answered):
            try:
                windows.append((unique_id, champion_window, means, encoder.encode(series, path, steps)))
            except SeriesError:
                self._count(answered, "failed", 1)
        if not windows:
            return
        quantiles = challenger.network(encoder.build_inputs([window for *_, window in windows]))
        rows = build_levels(None, (), network.output_levels).read(quantiles, network.output_levels)[0]
        horizon = answered.model.manifest.network.horizon
        for (unique_id, champion_window, means, _), row in zip(windows, rows, strict=True):
            first = len(champion_window.stamps) - horizon
            if not (is_whole(means) and is_whole(row)):
                self._count(answered, "failed", 1)
                continue
            pair = Pair(versions, champion_window.stamps[first : first + steps], means[:steps].copy(), row[:steps].copy())
            self._kept.keep(answered.model.version.name, unique_id, pair)
            self._count(answered, "forecast", 1)

    def _count(self, answered: Answered, outcome: str, num_windows: int) -> None:
        self._metrics.shadow_windows.labels(answered.model.version.name, outcome).inc(num_windows)


class KeptForecasts:
    """Forecasts that wait for their truth.

    Args:
        max_forecasts: Kept at most.
    """

    def __init__(self, max_forecasts: int) -> None:
        self._max_forecasts = max_forecasts
        # Per series by first timestamp, the series asked for last at the end.
        self._by_series: OrderedDict[tuple[str, str], dict[int, Pair]] = OrderedDict()
        self._num_forecasts = 0

    def __len__(self) -> int:
        return self._num_forecasts

    def keep(self, name: str, unique_id: str, pair: Pair) -> None:
        """Keep a pair; one of the same series and time is replaced."""
        pairs = self._by_series.setdefault((name, unique_id), {})
        self._by_series.move_to_end((name, unique_id))
        first = int(pair.stamps[0])
        self._num_forecasts += first not in pairs
        pairs[first] = pair
        while self._num_forecasts > self._max_forecasts:
            self._drop_oldest()

    def take(
        self, name: str, series: SeriesRequest, encoder: RequestEncoder
    ) -> Iterator[tuple[Pair, NDArray[np.float32]]]:
        """Take out the pairs whose time the series' past covers, each with the truth (H,), NaN where missing."""
        pairs = self._by_series.get((name, series.unique_id))
        if not pairs:
            return
        try:
            past = encoder.read_past(series, "")
        except SeriesError:
            return
        for first, pair in list(pairs.items()):
            rows = _rows_of(pair.stamps, past.start, encoder)
            if rows is not None and rows[-1] < len(past.y):
                self._num_forecasts -= 1
                del pairs[first]
                if not np.isnan(past.y[rows]).all():
                    yield pair, past.y[rows]
        if not pairs:
            del self._by_series[name, series.unique_id]

    def _drop_oldest(self) -> None:
        key, pairs = next(iter(self._by_series.items()))
        del pairs[next(iter(pairs))]
        self._num_forecasts -= 1
        if not pairs:
            del self._by_series[key]


def _rows_of(stamps: NDArray[np.int64], start: int, encoder: RequestEncoder) -> NDArray[np.int64] | None:
    """Rows of timestamps in a past that begins at `start`; None if they lie before it or on another grid."""
    try:
        return encoder.grid.positions(np.concatenate(([start], stamps)), "")[1:]
    except SeriesError:
        return None


def _answered_series(
    answered: Answered,
) -> Iterator[tuple[str, EncodedSeries, NDArray[np.float32], SeriesRequest, str]]:
    row = 0
    for index, (series, outcome) in enumerate(zip(answered.request.series, answered.outcomes, strict=True)):
        if index == MAX_SERIES_PER_REQUEST:
            return
        if isinstance(outcome, EncodedSeries):
            yield series.unique_id, outcome, answered.means[row], series, f"series.{index}"
            row += 1
