"""An example of every answer, for the documentation; the numbers are made up, the shapes are tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DATASET_ID, JOB_ID, RUN_ID = "9f86d081884c7d659a2feaa0c55ad015", "20260301-093000-1f0c2a9b", "0f3c5c2e7b1d4e6f8a9b0c1d2e3f4a5b"

PARAMETERS: Mapping[str, str] = {
    "name": "gasoline",
    "dataset_id": DATASET_ID,
    "job_id": JOB_ID,
    "run_id": RUN_ID,
}
"""A value of every parameter in a path."""

_FORECAST = {
    "model": {
        "name": "gasoline", "version": 3, "alias": "champion", "run_id": RUN_ID, "verdict": "healthy", "reach_steps": 52,
        "trained_until": "2016-11-07T00:00:00",
    },
    "status": "completed",
    "forecasts": [
        {
            "unique_id": "us_gasoline", "ds": ["2016-11-14T00:00:00", "2016-11-21T00:00:00"], "mean": [9.21, 9.14],
            "intervals": {"lo-80": [9.02, 8.93], "hi-80": [9.41, 9.38]}, "quantiles": {"0.5": [9.21, 9.14]}, "warnings": [],
            "error": None,
        }
    ],
}  # fmt: skip
_MODEL = {
    "name": "gasoline", "is_ready": True, "version": 3, "aliases": {"champion": 3, "challenger": 4}, "verdict": "healthy",
    "reach_steps": 52, "horizon": 52, "context_length": 104, "freq": "W-MON", "season_length": 52, "time_kind": "datetime",
    "architecture": "lstm", "quantile_levels": [0.1, 0.25, 0.5, 0.75, 0.9],
    "columns": {"target": "y", "futr_exog": [], "hist_exog": [], "stat_exog": [], "calendar": [], "categories": {}},
    "num_series": 1, "has_context": True, "trained_until": "2016-11-07T00:00:00", "last_error": None,
    "versions": [{"version": 3, "aliases": ["champion"], "run_id": RUN_ID, "verdict": "healthy", "is_loaded": True}],
}  # fmt: skip
_DATASET = {
    "id": DATASET_ID, "name": "gasoline.csv", "num_bytes": 31458, "uploaded_at": "2026-03-01T09:30:00+00:00", "columns": {},
    "summary": {"rows": 1355, "series": 1, "start": "1991-02-04", "end": "2017-01-16", "freq": "W-MON", "season_length": 52},
    "counts": {"error": 0, "warning": 0, "info": 0},
}  # fmt: skip
_JOB = {
    "id": JOB_ID, "state": "running", "user": "shop", "place": None, "dataset_id": DATASET_ID,
    "dataset_name": "gasoline.csv", "model_name": "gasoline",
    "created_at": "2026-03-01T09:30:00+00:00", "started_at": "2026-03-01T09:30:02+00:00", "finished_at": None,
    "num_attempts": 1, "step": 300, "max_steps": 500, "loss": 0.31, "val_loss": 0.33, "grad_norm": 0.12, "reach_steps": 52,
    "verdict": "healthy", "run_id": None, "model": None, "code": None, "message": None, "is_resumable": False,
}  # fmt: skip
_JOB_IN_FULL = _JOB | {
    "config": {"fit": {"max_steps": 500}}, "metrics": {}, "baselines": {}, "promotion": None, "log": ["step 300 ..."],
}  # fmt: skip
_REMEDY = {
    "why": "The gradient dies before the season.", "set": {"model.initialization": "chrono"}, "restart": "scratch",
    "rule": "vanishing_through_time",
}  # fmt: skip
_GRADIENTS = {
    "name": "gasoline", "status": "finished", "is_preliminary": False, "step": 500, "max_steps": 500, "best_step": 400,
    "network": {"architecture": "lstm"}, "unit": {"one": "week", "many": "weeks", "note": ""}, "verdict": "healthy",
    "tone": "good", "headline": "The network could learn from 52 weeks back.", "explanation": "So far back the data pays.",
    "outcome_sentence": "It beats seasonal naive.", "outcome": {"metric": "mae", "errors": {"model": 0.2, "seasonal_naive": 0.3}},
    "reach_steps": 52, "need_steps": 52, "typical_reach": 52, "ratio_at_need": 0.08, "arrival_sentence": "Enough arrives.",
    "need": None, "findings": [], "remedies": [_REMEDY], "settings": {"model.hidden_size": 64},
    "flow": {"lstm.0": {"label": "lstm.0", "steps": [400], "lags": [1, 52], "decades": [[0.0, -1.1]]}},
    "norms": {"lstm.0": {"steps": [100, 400], "values": [0.4, 0.1]}}, "reach": {}, "losses": {},
}  # fmt: skip
_GATE = {
    "is_allowed": True, "is_promoted": True, "reasons": ["Version 4 is healthy."], "compared_by": "val/mase", "version": 4,
    "champion": 3, "override": None,
}  # fmt: skip

_TIMEGPT = {"mean": [9.21, 9.14], "intervals": {"lo-80": [9.02, 8.93], "hi-80": [9.41, 9.38]}, "weights_x": None}
_KSERVE = {
    "id": "forecast-0f3c", "created_at": 1772357400, "status": "completed", "error": None, "model": "gasoline",
    "outputs": [
        {"type": "time_series_forecast", "id": "0f3c-0", "status": "completed", "error": None, "content": [
            {"type": "univariate_time_series", "name": "us", "mean_forecast": [9.21, 9.14], "frequency": "week",
             "start_timestamp": "2016-11-14T00:00:00", "quantiles": {"0.1": [9.02, 8.93]}}
        ]}
    ],
}  # fmt: skip

ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "POST /forecast": {"200": _FORECAST},
    "POST /v2/forecast": {"200": _TIMEGPT},
    "POST /v2/cross_validation": {"200": _TIMEGPT | {"sizes": [2], "idxs": [52, 53], "feature_contributions": None}},
    "POST /v2/anomaly_detection": {"200": _TIMEGPT | {"sizes": [2], "anomaly": [False, True]}},
    "GET /model_params": {"200": {"detail": {"input_size": 104, "horizon": 52}}},
    "GET /validate_api_key": {"200": {"detail": "The key is valid."}},
    "POST /v1/timeseries/forecast": {"200": _KSERVE},
    "GET /v1/timeseries/models": {"200": ["gasoline"]},
    "POST /invocations": {"200": {"predictions": [{"mean": [9.21, 9.14], "quantiles": {"0.5": [9.21, 9.14]}}]}},
    "GET /models": {"200": {"models": [_MODEL], "default_model": "gasoline"}},
    "GET /models/{name}": {
        "200": _MODEL | {
            "metrics": {"test/mae": 0.21}, "baselines": {"seasonal_naive": {"test/mae": 0.29}},
            "data_fingerprint": DATASET_ID * 2, "versions_of": {"gradcast": "0.1.0", "torch": "2.13.0"},
        }
    },
    "POST /models/{name}/promote": {"200": _GATE},
    "GET /runs/{run_id}/gradients": {"200": _GRADIENTS},
    "POST /datasets": {"200": _DATASET | {"problems": []}, "201": _DATASET | {"problems": []}},
    "GET /datasets": {"200": {"datasets": [_DATASET]}},
    "GET /datasets/{dataset_id}": {"200": _DATASET | {"problems": []}},
    "GET /datasets/{dataset_id}/preview": {
        "200": {
            "freq": "W-MON", "season_length": 52, "time_kind": "datetime", "target": "y", "num_series": 1,
            "series": [{"unique_id": "us_gasoline", "ds": ["2017-01-16T00:00:00"], "y": [8.04], "num_steps": 1355}],
        }
    },
    "POST /jobs": {"202": _JOB_IN_FULL | {"state": "pending"}},
    "GET /jobs": {"200": {"jobs": [_JOB], "has_worker": True}},
    "GET /jobs/{job_id}": {"200": _JOB_IN_FULL},
    "POST /jobs/{job_id}/cancel": {"202": _JOB_IN_FULL},
    "POST /jobs/{job_id}/resume": {"202": _JOB_IN_FULL | {"state": "pending"}},
    "GET /jobs/{job_id}/events": {"200": 'id: 512\nevent: progress\ndata: {"step": 300, "loss": 0.31, "grad_norm": 0.12}\n\n'},
    "GET /livez": {"200": {"status": "alive"}},
    "GET /readyz": {
        "200": {
            "status": "ready", "is_degraded": False,
            "models": [{"name": "gasoline", "is_ready": True, "version": 3, "last_error": None}],
            "source": {"kind": "registry", "has_answered": True, "last_error": None}, "queue_windows": 0,
        }
    },
    "GET /metrics": {"200": "# TYPE gradcast_queue_windows gauge\ngradcast_queue_windows 0.0\n"},
}  # fmt: skip
"""Example by route and status."""
