"""From a table of recent values to a forecast: the one way that the command line, the pyfunc and the service share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64

from models.bundle import Bundle, BundleManifest
from models.errors import GradcastError
from models.forecaster import ForecastInputs
from models.recursive import RecursiveForecaster
from training.config import DataConfig
from training.data.panel import Panel, build_panel
from training.data.timestamps import as_times
from training.data.windows import WindowStore
from training.errors import DataError, Problem

WINDOWS_PER_BATCH = 512


class LevelError(GradcastError):
    """A quantile level outside of those the model was trained for."""

    code = "level_unavailable"


class SamplesError(GradcastError):
    """Sampled paths asked of a model that draws none."""

    code = "samples_unavailable"


@dataclass(frozen=True)
class PanelForecast:
    """Forecasts of every series of a panel, from its last known row on.

    Attributes:
        panel: The series.
        quantiles: In the unit of `y`.
        levels: Quantile levels along Q.
    """

    panel: Panel
    quantiles: Float[np.ndarray, "N H Q"]
    levels: tuple[float, ...]

    def timestamps(self, series: int) -> pd.DatetimeIndex | np.ndarray:
        """Time of every forecast step of one series."""
        length = int(self.panel.offsets[series + 1] - self.panel.offsets[series])
        return self.panel.timestamps(series, length, length + self.quantiles.shape[1])

    def to_frame(self) -> pd.DataFrame:
        """Columns unique_id, ds, mean (the median), and one per level, named by its number."""
        frame = _times(self.panel, self.quantiles.shape[1])
        frame["mean"] = interpolate_levels(self.quantiles, self.levels, (0.5,)).reshape(-1)
        for index, level in enumerate(self.levels):
            frame[f"{level:g}"] = self.quantiles[:, :, index].reshape(-1)
        return frame


def build_request_panel(
    manifest: BundleManifest, frame: pd.DataFrame, covariate_fill: Float[np.ndarray, " K"] | None = None
) -> Panel:
    """Encode recent values the way the model was trained.

    Args:
        manifest: Of the model's bundle.
        frame: unique_id, ds, y and the model's covariates. Rows after a series' last real y carry the known-future
            covariates of the horizon.
        covariate_fill: Value per channel of a covariate not seen yet; None is its mean in the frame.

    Returns:
        One series per unique_id.

    Raises:
        DataError: With everything that is wrong.
    """
    columns = manifest.columns
    config = DataConfig(
        freq=manifest.freq,
        season_length=manifest.season_length,
        futr_exog=columns.futr_exog,
        hist_exog=columns.hist_exog,
        stat_exog=columns.stat_exog,
        fill=manifest.fill,
        irregular=manifest.irregular,
    )
    horizon, timezone = manifest.network.horizon, manifest.timezone
    return build_panel(frame, config, columns, horizon, covariate_fill, timezone)


def forecast_panel(bundle: Bundle, panel: Panel) -> PanelForecast:
    """Forecast every series from its end.

    Args:
        bundle: The model.
        panel: Encoded with the model's columns.

    Returns:
        Quantiles of the model's horizon.

    Raises:
        DataError: If the horizon's known-future covariates are missing.
    """
    with torch.inference_mode():
        parts = [bundle.forecaster(inputs) for inputs in last_windows(bundle, panel)]
    return PanelForecast(panel, torch.cat(parts).numpy(), bundle.manifest.network.output_levels)


def sample_frame(bundle: Bundle, frame: pd.DataFrame, num_paths: int, seed: int) -> pd.DataFrame:
    """Futures of every series of a table from its end, drawn step by step.

    Args:
        bundle: A model with the recursive decoder and a distribution.
        frame: As `build_request_panel` takes it.
        num_paths: Futures per series.
        seed: Of the draws; the same seed gives the same futures.

    Returns:
        unique_id, ds, and one column per future: sample_1, sample_2, ...

    Raises:
        SamplesError: If the model draws none.
        DataError: With everything that is wrong with the table.
    """
    forecaster = bundle.forecaster
    if not isinstance(forecaster, RecursiveForecaster) or not forecaster.draws_paths:
        network = bundle.manifest.network
        decoder = getattr(network, "decoder", "direct")
        raise SamplesError(
            "the model for --samples", "one whose decoder draws paths",
            f"{network.architecture} with decoder {decoder} and head {network.head}",
            "Train with model.decoder=recursive and a distribution as model.head.",
        )  # fmt: skip
    panel = build_request_panel(bundle.manifest, frame)
    with torch.inference_mode():
        parts = [forecaster.sample_paths(inputs, num_paths, seed) for inputs in last_windows(bundle, panel)]
    paths = torch.cat(parts).transpose(1, 2).numpy()
    names = [f"sample_{number}" for number in range(1, num_paths + 1)]
    values = pd.DataFrame(paths.reshape(-1, num_paths), columns=names)
    return pd.concat((_times(panel, paths.shape[1]), values), axis=1)


def last_windows(bundle: Bundle, panel: Panel) -> Iterator[ForecastInputs]:
    """The window at the end of every series, in batches of `WINDOWS_PER_BATCH`.

    Raises:
        DataError: If the horizon's known-future covariates are missing.
    """
    network = bundle.manifest.network
    store = WindowStore(panel, network.context_length, network.horizon)
    _validate_future(panel, network.horizon)
    lengths = torch.from_numpy(np.diff(panel.offsets))
    for series in torch.arange(len(panel.ids)).split(WINDOWS_PER_BATCH):
        yield store.gather(series, lengths[series]).inputs


def forecast_times(panel: Panel, horizon: int) -> pd.DatetimeIndex | Int64[np.ndarray, " S"]:
    """Time of every step after every series' end, series by series (S = N x horizon)."""
    frequency = panel.frequency
    units, rest = frequency.units(panel.starts.view(np.int64))
    steps = panel.lengths[:, None] + np.arange(horizon)
    stamps = frequency.stamps(units[:, None] + steps * frequency.step, rest[:, None])
    return as_times(stamps.reshape(-1), panel.time_kind, panel.timezone)


def _times(panel: Panel, horizon: int) -> pd.DataFrame:
    """unique_id and ds of every step after every series' end."""
    frame = pd.DataFrame({"unique_id": np.repeat(np.asarray(panel.ids, dtype=object), horizon)})
    return frame.assign(ds=pd.Series(forecast_times(panel, horizon)))


def forecast_frame(bundle: Bundle, frame: pd.DataFrame) -> pd.DataFrame:
    """Forecast every series of a table; see `build_request_panel` for its columns.

    Returns:
        unique_id, ds, mean, and one column per quantile level.
    """
    return forecast_panel(bundle, build_request_panel(bundle.manifest, frame)).to_frame()


def forecast_frame_at(bundle: Bundle, frame: pd.DataFrame, columns: Mapping[str, float], num_steps: int) -> pd.DataFrame:
    """Forecast every series of a table at chosen levels; see `build_request_panel` for its columns.

    Args:
        bundle: The model.
        frame: The recent past.
        columns: Quantile level of every column of the result.
        num_steps: Of the model's horizon, the first so many.

    Returns:
        unique_id, ds, and the columns asked for.

    Raises:
        LevelError: If a level lies outside of those trained.
        DataError: With everything that is wrong with the table.
    """
    validate_levels(bundle.manifest.network.output_levels, tuple(columns.values()))
    forecast = forecast_panel(bundle, build_request_panel(bundle.manifest, frame))
    values = interpolate_levels(forecast.quantiles[:, :num_steps], forecast.levels, tuple(columns.values()))
    table = pd.DataFrame(values.reshape(-1, len(columns)), columns=list(columns))
    return pd.concat((_times(forecast.panel, num_steps), table), axis=1)


def _validate_future(panel: Panel, horizon: int) -> None:
    problems = [
        Problem(
            "covariate_missing",
            f"series {name!r}",
            f"must have {', '.join(panel.columns.futr_exog)} for {horizon} steps after its last value.",
            "Add rows without y that carry them.",
        )
        for name in panel.series_without_future(horizon)
    ]
    if problems:
        raise DataError(problems)


def validate_levels(levels: Sequence[float], wanted: Sequence[float]) -> None:
    """Refuse a level outside of those trained.

    Raises:
        LevelError: Naming it.
    """
    outside = [level for level in wanted if not levels[0] - 1e-9 <= level <= levels[-1] + 1e-9]
    if outside:
        raise LevelError(
            "quantile level", f"between {levels[0]:g} and {levels[-1]:g}", f"{outside[0]:g}",
            "Train with model.quantile_levels that include it.",
        )  # fmt: skip


def interpolate_levels(
    quantiles: Float[np.ndarray, "*rest Q"], levels: Sequence[float], wanted: Sequence[float]
) -> Float[np.ndarray, "*rest W"]:
    """Quantiles at other levels, linear between the trained ones.

    Args:
        quantiles: At `levels` along the last axis.
        levels: Trained levels, increasing.
        wanted: Levels inside the trained range.

    Returns:
        Quantiles at `wanted`.

    Raises:
        LevelError: If a level lies outside.
    """
    validate_levels(levels, wanted)
    position = np.interp(wanted, levels, np.arange(len(levels)))
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, len(levels) - 1)
    share = (position - below).astype(quantiles.dtype)
    return np.asarray(quantiles[..., below] * (1 - share) + quantiles[..., above] * share)
