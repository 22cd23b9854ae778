"""`Forecaster(...).fit(df).predict(h)`: the pipeline for programs, in the manner of scikit-learn and of Nixtla's libraries.

    from training.estimator import Forecaster

    model = Forecaster(horizon=24, max_steps=500).fit(df)          # unique_id, ds, y
    forecast = model.predict(level=[80])                           # unique_id, ds, gradcast, gradcast-lo-80, gradcast-hi-80
    model.save("bundle"); Forecaster.load("bundle")

It is the same training as `gradcast train`: the same choices, verdict, baselines and bundle. Parameters follow
scikit-learn's conventions (`get_params`, `set_params`, `clone`), without depending on it.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from models.bundle import Bundle, load_bundle
from models.errors import GradcastError
from training.config import DataConfig, TrainingConfig, build_config
from training.data.context import read_context
from training.data.frames import as_kind_of, join_rows, read_rows, write_rows
from training.errors import ConfigurationError, Problem
from training.forecasting import forecast_frame_at

MEDIAN = 0.5


class NotFittedError(GradcastError):
    """A forecaster asked for a forecast before it was fitted or loaded."""

    code = "not_fitted"


class Forecaster:
    """A forecaster to be fitted on a frame. What is None is chosen from the data, as `gradcast train` does.

    Args:
        horizon: Steps to forecast.
        context_length: Past steps the network sees.
        architecture: Such as `lstm`; see the guide to networks. None = chosen from the data.
        max_steps: Optimizer steps at most.
        freq: Step between rows as a pandas offset alias; 1 for integer time.
        season_length: Season in steps.
        futr_exog: Covariates known into the future.
        hist_exog: Covariates known for the past only.
        stat_exog: Covariates constant over a series.
        seed: Of everything random.
        settings: Any other key of the configuration, dotted: `{"model.hidden_size": 32}`. It loses to the arguments above.
        name: Column of the forecast.
        directory: Where the run is kept; None = until the forecaster is gone.
        track: Whether the run goes to the MLflow store of `tracking.uri`, and is registered there if it names a model.

    Attributes:
        bundle_: The fitted model.
        result_: Everything the training reported; None after `load`.
        notes_: What was chosen and found, one sentence each.
    """

    bundle_: Bundle
    result_: Any
    notes_: list[str]

    def __init__(
        self,
        *,
        horizon: int | None = None,
        context_length: int | None = None,
        architecture: str | None = None,
        max_steps: int = 2000,
        freq: str | None = None,
        season_length: int | None = None,
        futr_exog: Sequence[str] = (),
        hist_exog: Sequence[str] = (),
        stat_exog: Sequence[str] = (),
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        name: str = "gradcast",
        directory: str | Path | None = None,
        track: bool = False,
    ) -> None:
        # Kept as they are and checked in fit, so that a clone has the very same ones.
        self.horizon = horizon
        self.context_length = context_length
        self.architecture = architecture
        self.max_steps = max_steps
        self.freq = freq
        self.season_length = season_length
        self.futr_exog = futr_exog
        self.hist_exog = hist_exog
        self.stat_exog = stat_exog
        self.seed = seed
        self.settings = settings
        self.name = name
        self.directory = directory
        self.track = track

    # ---------------------------------------------------------------------------------------------- scikit-learn's manner
    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments it was made with, or that `set_params` has set since."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> Self:
        """Set arguments by name; what was fitted stays until the next `fit`.

        Raises:
            ConfigurationError: For a name that is none.
        """
        known = self._parameter_names()
        unknown = [name for name in params if name not in known]
        if unknown:
            message = f"is no parameter; there are {', '.join(known)}."
            raise ConfigurationError([Problem("parameter_unknown", name, message) for name in unknown])
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "bundle_")

    def __repr__(self) -> str:
        default = {name: parameter.default for name, parameter in inspect.signature(type(self).__init__).parameters.items()}
        given = {name: value for name, value in self.get_params().items() if value != default[name]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    # ------------------------------------------------------------------------------------------------------ fit and predict
    def fit(self, df: Any, y: None = None) -> Self:
        """Train on a frame.

        Args:
            df: Columns `unique_id` (absent: one series), `ds`, `y` and the covariates, of pandas or polars.
            y: Ignored; the target is a column.

        Raises:
            GradcastError: Whatever is wrong with parameters or data, by kind.
        """
        from training import pipeline

        # Checked before anything is written.
        self._config(None)
        directory = self._new_directory()
        path = directory / "data.parquet"
        write_rows(df, path)
        config = self._config(path)
        notes: list[str] = []
        result = pipeline.train(config, self._tracker(config), say=notes.append, output=directory / "run")
        self.result_, self.notes_ = result, notes
        self._take(load_bundle(directory / "run" / "bundle"), config.data, df)
        return self

    def predict(
        self,
        h: int | None = None,
        df: Any = None,
        futr_df: Any = None,
        level: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
    ) -> Any:
        """Forecast every series from its end.

        Args:
            h: Steps, at most the horizon it was fitted for; None = all.
            df: The recent past of the series to forecast, which need not be those of the fit; None = the series of the fit.
            futr_df: Rows of the covariates known into the future for the steps ahead; they may also be rows of `df`
                without `y`.
            level: Central intervals in percent, such as `[80, 90]`.
            quantiles: Further quantile levels.

        Returns:
            `unique_id`, `ds`, `<name>` (the median), `<name>-lo-80`, `<name>-hi-80`, `<name>-ql0.1`, ..., as polars' frame if
            the frame handed over last was one.

        Raises:
            NotFittedError: Before `fit` or `load`.
            LevelError: If a level lies outside of those trained.
            DataError: With everything wrong with the frames.
        """
        bundle = self._fitted()
        horizon = bundle.manifest.network.horizon
        if h is not None and not 1 <= h <= horizon:
            message = f"must be from 1 to {horizon}, the horizon it was fitted for, but is {h} instead."
            raise ConfigurationError([Problem("horizon_invalid", "h", message, "Fit with a longer horizon.")])
        columns = self._columns(level, quantiles)
        frame = forecast_frame_at(bundle, self._recent(df, futr_df), columns, h or horizon)
        frame = frame.rename(columns={"unique_id": self._data.id_col, "ds": self._data.time_col})
        return as_kind_of(frame, df if df is not None else futr_df if futr_df is not None else self._like)

    def save(self, directory: str | Path) -> None:
        """Write the bundle: the directory that `gradcast forecast --bundle` and the service read, too.

        Raises:
            NotFittedError: Before `fit` or `load`.
            ConfigurationError: If the directory exists.
        """
        bundle, target = self._fitted(), Path(directory)
        if target.exists():
            message = "must not exist yet, but does."
            raise ConfigurationError([Problem("directory_exists", str(target), message, "Name another one.")])
        shutil.copytree(bundle.directory, target)

    @classmethod
    def load(cls, directory: str | Path, name: str = "gradcast") -> Self:
        """A fitted forecaster from a bundle; its parameters are those that the bundle tells.

        Raises:
            BundleError: If it is damaged or foreign.
        """
        bundle = load_bundle(Path(directory))
        manifest, columns = bundle.manifest, bundle.manifest.columns
        loaded = cls(
            horizon=manifest.network.horizon, context_length=manifest.network.context_length, freq=manifest.freq,
            architecture=manifest.network.architecture, season_length=manifest.season_length, futr_exog=columns.futr_exog,
            hist_exog=columns.hist_exog, stat_exog=columns.stat_exog, name=name,
        )  # fmt: skip
        loaded.result_, loaded.notes_ = None, []
        roles = {role: getattr(columns, role) for role in ("futr_exog", "hist_exog", "stat_exog")}
        loaded._take(bundle, DataConfig(**roles), None)
        return loaded

    # --------------------------------------------------------------------------------------------------------------- inside
    def _config(self, path: Path | None) -> TrainingConfig:
        tree: dict[str, Any] = {}
        settings = {"tracking.register": self.track, **(self.settings or {})}
        for key, value in settings.items():
            section, _, leaf = key.partition(".")
            tree.setdefault(section, {})[leaf] = value
        own: dict[str, dict[str, Any]] = {
            "data": {"path": path and str(path), "freq": self.freq, "season_length": self.season_length,
                     "futr_exog": tuple(self.futr_exog), "hist_exog": tuple(self.hist_exog),
                     "stat_exog": tuple(self.stat_exog)},
            "model": {"horizon": self.horizon, "context_length": self.context_length, "architecture": self.architecture},
            "fit": {"max_steps": self.max_steps, "seed": self.seed},
        }  # fmt: skip
        for section, values in own.items():
            tree.setdefault(section, {}).update({key: value for key, value in values.items() if value not in (None, ())})
        return build_config(tree)

    def _tracker(self, config: TrainingConfig) -> Any:
        from training.tracking.environment import resolve_uri
        from training.tracking.mlflow_tracker import MlflowTracker
        from training.tracking.tracker import NOOP_TRACKER

        if not self.track:
            return NOOP_TRACKER
        return MlflowTracker(resolve_uri(config.tracking), required=config.tracking.required)

    def _new_directory(self) -> Path:
        if self.directory is not None:
            directory = Path(self.directory)
            directory.mkdir(parents=True, exist_ok=True)
            return directory
        temporary = Path(tempfile.mkdtemp(prefix="gradcast-fit-"))
        weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
        return temporary

    def _take(self, bundle: Bundle, data: DataConfig, like: Any) -> None:
        """What a prediction needs to know of the fit: the model, the names of the columns, the kind of the frame."""
        self.bundle_, self._data, self._like = bundle, data, None if like is None else like[:0]

    def _fitted(self) -> Bundle:
        if not hasattr(self, "bundle_"):
            raise NotFittedError("the forecaster", "fitted", "not", "Call fit or load first.")
        return self.bundle_

    def _recent(self, df: Any, futr_df: Any) -> Any:
        if df is not None:
            recent = read_rows(df, self._data)
        elif self.bundle_.context_path is not None:
            recent = read_context(self.bundle_.context_path)
        else:
            message = "must be given, because the bundle keeps no rows (data.keep_context: false)."
            raise ConfigurationError([Problem("context_missing", "df", message)])
        if futr_df is None:
            return recent
        return join_rows(recent, read_rows(futr_df, self._data, is_future=True))

    def _columns(self, level: Sequence[float] | None, quantiles: Sequence[float] | None) -> dict[str, float]:
        """Quantile level of every column of the forecast."""
        columns = {self.name: MEDIAN}
        for percent in level or ():
            if not 0 < percent < 100:
                message = f"must lie between 0 and 100, but is {percent:g} instead."
                raise ConfigurationError([Problem("level_invalid", "level", message)])
            columns[f"{self.name}-lo-{percent:g}"] = round(0.5 - percent / 200, 10)
            columns[f"{self.name}-hi-{percent:g}"] = round(0.5 + percent / 200, 10)
        return columns | {f"{self.name}-ql{quantile:g}": quantile for quantile in quantiles or ()}
