"""POST /forecast: what a request means and what its answer says."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from app.schemas.forecast import ForecastResponse
from models.bundle import load_bundle
from models.config import LinearConfig
from tests.integration.service.service_bundles import (
    CONTEXT,
    HORIZON,
    TestClient,
    full_series,
    series,
    write_bundle,
)
from training.forecasting import forecast_frame


def ask(client: TestClient, *items: dict[str, Any], status: int = 200, **request: Any) -> dict[str, Any]:
    response = client.post("/forecast", json={"series": list(items)} | request)
    assert response.status_code == status, response.text
    document: dict[str, Any] = response.json()
    return document


def first(client: TestClient, *items: dict[str, Any], **request: Any) -> dict[str, Any]:
    forecast: dict[str, Any] = ask(client, *items, **request)["forecasts"][0]
    return forecast


def as_frame(item: dict[str, Any]) -> pd.DataFrame:
    """The request's series as the table that the command line and the pyfunc take."""
    num_steps, total = len(item["y"]), len(item["y"]) + HORIZON
    frame = pd.DataFrame({"ds": pd.date_range(item["start"], periods=total, freq="h")})
    frame.insert(0, "unique_id", item["unique_id"])
    frame["y"] = np.array(item["y"] + [None] * HORIZON, dtype=float)
    for name, values in item.get("futr_exog", {}).items():
        frame[name] = values
    for name, values in item.get("hist_exog", {}).items():
        frame[name] = values + [None] * HORIZON
    for name, value in item.get("stat_exog", {}).items():
        frame[name] = value
    return frame if item.get("futr_exog") else frame.iloc[:num_steps]


def test_an_answer_fits_its_schema_and_names_its_model(client: TestClient) -> None:
    """Every member of the contract is there: model, status, arrays of the horizon, ordered intervals and quantiles."""
    document = ask(client, series(), model="plain", horizon=3, level=[80, 50])
    ForecastResponse.model_validate(document)
    assert document["model"] == {
        "name": "plain", "version": 1, "alias": "champion", "run_id": None, "verdict": "healthy", "reach_steps": 12,
        "trained_until": "2026-01-31T23:00:00",
    }  # fmt: skip
    assert document["status"] == "completed"
    forecast = document["forecasts"][0]
    assert forecast["ds"] == ["2026-01-01T12:00:00", "2026-01-01T13:00:00", "2026-01-01T14:00:00"]
    assert list(forecast["intervals"]) == ["lo-80", "hi-80", "lo-50", "hi-50"]
    assert list(forecast["quantiles"]) == ["0.1", "0.25", "0.5", "0.75", "0.9"]
    assert forecast["mean"] == forecast["quantiles"]["0.5"]
    assert forecast["intervals"]["lo-80"] == forecast["quantiles"]["0.1"]
    assert forecast["intervals"]["hi-50"] == forecast["quantiles"]["0.75"]
    ladder = np.array([forecast["quantiles"][key] for key in forecast["quantiles"]])
    assert (np.diff(ladder, axis=0) >= 0).all()
    assert forecast["warnings"] == []
    assert forecast["error"] is None


@pytest.mark.parametrize(
    ("num_steps", "gaps"), [(CONTEXT, ()), (CONTEXT, (0, 1)), (CONTEXT + 9, (0, 4, 14, 15)), (5, (0, 3)), (1, ())]
)
@pytest.mark.parametrize("model", ["plain", "full"])
def test_the_service_forecasts_what_the_command_line_does(
    client: TestClient, shared_store: Path, model: str, num_steps: int, gaps: tuple[int, ...]
) -> None:
    """Short, long, gappy, with and without covariates: the arrays of a request become the windows that a table becomes."""
    item = (full_series if model == "full" else series)(num_steps=num_steps)
    item["y"] = [None if step in gaps else value for step, value in enumerate(item["y"])]
    expected = forecast_frame(load_bundle(shared_store / model / "1"), as_frame(item))
    forecast = first(client, item, model=model)
    assert forecast["ds"] == [time.isoformat() for time in expected["ds"]]
    for level in ("0.1", "0.25", "0.5", "0.75", "0.9"):
        np.testing.assert_allclose(forecast["quantiles"][level], expected[level], rtol=2e-6, atol=2e-6)


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one(client: TestClient) -> None:
    """Asking for fewer steps changes none of them, also where only those steps' covariates are given."""
    for model, make in (("plain", series), ("full", full_series)):
        whole = first(client, make(), model=model, level=[80])
        item = make() if model == "plain" else full_series(horizon=2)
        part = first(client, item, model=model, horizon=2, level=[80])
        assert part["ds"] == whole["ds"][:2]
        assert part["mean"] == whole["mean"][:2]
        assert part["intervals"] == {key: values[:2] for key, values in whole["intervals"].items()}


def test_a_series_gets_the_same_answer_in_any_company(client: TestClient) -> None:
    """A series forecast alone, among others, and in another place has the same digits."""
    items = [series(f"s{number}", CONTEXT + number, start="2026-01-02T00:00:00") for number in range(9)]
    together = ask(client, *items, model="plain")["forecasts"]
    backwards = ask(client, *reversed(items), model="plain")["forecasts"][::-1]
    alone = [first(client, item, model="plain") for item in items]
    assert together == alone == backwards


def test_every_covariate_is_heard(client: TestClient) -> None:
    """Changing one known-future, past-only or static value, numeric or categorical, changes the forecast."""
    base = full_series()
    heard = first(client, base, model="full")["mean"]
    for role, name, index, value in (
        ("futr_exog", "temp", CONTEXT + 2, 40.0), ("futr_exog", "temp", 3, 40.0), ("futr_exog", "weather", CONTEXT, "sun"),
        ("hist_exog", "flow", CONTEXT - 1, 90.0), ("stat_exog", "size", None, 9.0), ("stat_exog", "kind", None, "a"),
    ):  # fmt: skip
        changed = json.loads(json.dumps(base))
        if index is None:
            changed[role][name] = value
        else:
            changed[role][name][index] = value
        assert first(client, changed, model="full")["mean"] != heard, (role, name, index)


def test_a_future_covariate_moves_its_own_step_alone(client: TestClient) -> None:
    """The direct decoder conditions each step on that step's covariates: other steps keep their digits."""
    base, changed = full_series(), full_series()
    changed["futr_exog"]["temp"][CONTEXT + 3] += 25.0
    before, after = first(client, base, model="full")["mean"], first(client, changed, model="full")["mean"]
    assert [a != b for a, b in zip(before, after, strict=True)] == [False, False, False, True, False]


def test_the_clock_is_heard(client: TestClient) -> None:
    """A model with calendar features forecasts otherwise six hours later."""
    here = first(client, full_series(), model="full")["mean"]
    later = first(client, full_series(start="2026-01-01T06:00:00"), model="full")["mean"]
    assert here != later


def test_timestamps_may_be_given_one_by_one(client: TestClient) -> None:
    """`ds` without gaps equals `start`; a gap in `ds` equals a null in `y`."""
    times = [datetime(2026, 1, 1) + timedelta(hours=step) for step in range(CONTEXT)]  # noqa: DTZ001  as in training
    base = series()
    listed = {"unique_id": "a", "ds": [time.isoformat() for time in times], "y": base["y"]}
    assert first(client, listed, model="plain") == first(client, base, model="plain")
    hole = series(y=[*base["y"][:4], None, *base["y"][5:]])
    skipped = {"unique_id": "a", "ds": listed["ds"][:4] + listed["ds"][5:], "y": base["y"][:4] + base["y"][5:]}
    assert first(client, skipped, model="plain") == first(client, hole, model="plain")


def test_a_gap_in_ds_moves_the_covariates_with_it(client: TestClient) -> None:
    """With a time left out, covariates stay with their own times: like a null in every column."""
    base = full_series()
    times = [(datetime(2026, 1, 1) + timedelta(hours=step)).isoformat() for step in range(CONTEXT)]  # noqa: DTZ001
    skipped = json.loads(json.dumps(base))
    for values in (skipped["y"], *skipped["futr_exog"].values(), *skipped["hist_exog"].values()):
        del values[4]
    del skipped["start"], skipped["freq"]
    skipped["ds"] = times[:4] + times[5:]
    holed = json.loads(json.dumps(base))
    for values in (holed["y"], *holed["futr_exog"].values(), *holed["hist_exog"].values()):
        values[4] = None
    assert first(client, skipped, model="full") == first(client, holed, model="full")


def test_only_the_context_is_read(client: TestClient) -> None:
    """History older than context_length changes nothing but the start."""
    longer = series(num_steps=CONTEXT + 20)
    tail = series(start="2026-01-01T20:00:00", y=longer["y"][20:])
    assert first(client, longer, model="plain") == first(client, tail, model="plain")


def test_the_forecast_starts_after_the_last_element_of_y(client: TestClient) -> None:
    """A null at the end is a missing value, not a step to forecast."""
    forecast = first(client, series(y=[*series()["y"], None, None]), model="plain")
    assert forecast["ds"][0] == "2026-01-01T14:00:00"
    assert [warning["code"] for warning in forecast["warnings"]] == ["context_missing"]


@pytest.mark.parametrize(
    ("y", "codes"),
    [
        ([1.0] * CONTEXT, []),
        ([1.0, 2.0], ["context_short"]),
        ([*[1.0] * 11, None, 2.0], ["context_missing"]),
        ([None, 1.0, None, 2.0], ["context_short", "context_missing"]),
        ([None] * 5 + [1.0] * CONTEXT, []),
    ],
)
def test_what_the_network_did_not_see_is_said(client: TestClient, y: list[float | None], codes: list[str]) -> None:
    """Too few observations and gaps inside the context come with a warning; gaps before the context do not."""
    forecast = first(client, series(y=y), model="plain")
    assert [warning["code"] for warning in forecast["warnings"]] == codes


def test_missing_covariates_and_new_categories_are_said(client: TestClient) -> None:
    """A null covariate is carried forward, a category unknown to training reads as none; both are told."""
    item = full_series()
    item["futr_exog"]["temp"][CONTEXT] = None
    item["stat_exog"]["kind"] = "zebra"
    forecast = first(client, item, model="full")
    assert {warning["code"] for warning in forecast["warnings"]} == {"covariate_gaps", "category_unknown"}
    assert "zebra" not in json.dumps(forecast)
    carried = full_series()
    carried["futr_exog"]["temp"][CONTEXT] = carried["futr_exog"]["temp"][CONTEXT - 1]
    carried["stat_exog"]["kind"] = "zebra"
    assert first(client, carried, model="full")["mean"] == forecast["mean"]


def test_a_known_series_is_forecast_by_name(client: TestClient) -> None:
    """unique_id alone starts from the stored rows, after the training data."""
    forecast = first(client, {"unique_id": "known"}, model="plain")
    assert forecast["ds"][0] == "2026-02-01T00:00:00"
    assert len(forecast["mean"]) == HORIZON
    y = [float(value) for value in np.sin(np.arange(CONTEXT)).astype("float32")]
    given = series("known", start="2026-01-31T12:00:00", y=y)
    assert forecast == first(client, given, model="plain")


def test_a_known_series_with_future_covariates_needs_the_horizon_alone(client: TestClient) -> None:
    """With known-future covariates the client gives the future, the bundle the past."""
    future = {"temp": [1.0, 2.0, 3.0, 4.0, 5.0], "weather": ["rain"] * HORIZON}
    forecast = first(client, {"unique_id": "known", "futr_exog": future}, model="full")
    steps = np.arange(CONTEXT)
    given = {
        "unique_id": "known", "start": "2026-01-31T12:00:00",
        "y": [float(value) for value in np.sin(steps).astype("float32")],
        "futr_exog": {"temp": [*map(float, steps), *future["temp"]], "weather": ["sun"] * CONTEXT + future["weather"]},
        "hist_exog": {"flow": [float(step * 2) for step in steps]}, "stat_exog": {"size": 3.0, "kind": "a"},
    }  # fmt: skip
    assert forecast == first(client, given, model="full")


@pytest.mark.parametrize("future", [None, {"temp": [1.0] * HORIZON}, {"temp": [1.0], "weather": ["sun"]}])
def test_a_known_series_without_its_future_is_refused(client: TestClient, future: dict[str, Any] | None) -> None:
    """The future of a covariate is never made up."""
    item = {"unique_id": "known"} | ({"futr_exog": future} if future else {})
    document = ask(client, item, model="full", status=422)
    assert document["errors"][0]["code"] in ("covariate_missing", "length_mismatch")
    assert document["errors"][0]["path"].startswith("series.0.futr_exog.")


def test_levels_between_the_trained_ones_are_interpolated(client: TestClient) -> None:
    """level 60 is read off the line between the quantiles 0.1 and 0.25."""
    forecast = first(client, series(), model="plain", level=[60], quantiles=[0.1, 0.25])
    low, high = (np.array(forecast["quantiles"][key]) for key in ("0.1", "0.25"))
    expected = low + (0.2 - 0.1) / (0.25 - 0.1) * (high - low)
    np.testing.assert_allclose(forecast["intervals"]["lo-60"], expected, rtol=1e-5)
    assert list(forecast["quantiles"]) == ["0.1", "0.25"]


def test_no_quantiles_are_returned_for_an_empty_list(client: TestClient) -> None:
    """`quantiles: []` and no level leave the point forecast alone."""
    forecast = first(client, series(), model="plain", quantiles=[])
    assert forecast["quantiles"] == {}
    assert forecast["intervals"] == {}
    assert len(forecast["mean"]) == HORIZON


def test_the_first_name_asked_for_is_the_default(client: TestClient) -> None:
    """A request without `model` gets the first model that the settings name."""
    assert ask(client, series())["model"]["name"] == "plain"


@pytest.mark.parametrize(
    ("reference", "alias"), [("plain", "champion"), ("plain@champion", "champion"), ("plain/1", None)]
)
def test_a_model_is_named_three_ways(client: TestClient, reference: str, alias: str | None) -> None:
    """name, name@alias and name/version reach the same model; the answer says by which alias."""
    assert ask(client, series(), model=reference)["model"]["alias"] == alias


def test_integer_time_and_a_point_head(tmp_path: Path, launch: Any) -> None:
    """Integers count time without a calendar; a point network's forecast is its only quantile."""
    network = LinearConfig(context_length=4, horizon=3, head="point")
    write_bundle(tmp_path / "count", network=network, freq="2", time_kind="integer", trained_until="9")
    client = launch(tmp_path / "count")
    item = {"unique_id": "a", "start": 10, "y": [1.0, 2.0, 3.0, 4.0]}
    forecast = first(client, item)
    assert forecast["ds"] == [18, 20, 22]
    assert forecast["quantiles"] == {"0.5": forecast["mean"]}
    document = ask(client, item, level=[80], status=422)
    assert document["code"] == "level_unavailable"
    assert "no interval" in document["detail"]


def test_times_with_a_zone(tmp_path: Path, launch: Any) -> None:
    """A model of zoned data takes times with an offset and answers in its zone, across a change of clocks."""
    write_bundle(tmp_path / "zoned", timezone="Europe/Berlin")
    client = launch(tmp_path / "zoned")
    forecast = first(client, series(start="2026-03-28T13:00:00Z"))
    assert forecast["ds"][0] == "2026-03-29T03:00:00+02:00"
    same = first(client, series(start="2026-03-28T14:00:00+01:00"))
    assert same == forecast
    document = ask(client, series(), status=422)
    assert document["errors"][0]["code"] == "timestamps_invalid"


@pytest.mark.parametrize(
    ("freq", "start", "expected"),
    [
        ("MS", "2026-01-01", "2027-01-01T00:00:00"),
        ("ME", "2025-01-31", "2026-01-31T00:00:00"),
        ("W-MON", "2026-01-05", "2026-03-30T00:00:00"),
        ("B", "2026-01-02", "2026-01-20T00:00:00"),
        ("15min", "2026-01-01T00:00:00", "2026-01-01T03:00:00"),
        ("D", "2026-01-01T00:00:00+09:00", "2026-01-13T00:00:00"),
    ],
)
def test_the_calendar_is_counted_in_the_models_step(
    tmp_path: Path, launch: Any, freq: str, start: str, expected: str
) -> None:
    """Months, month ends, weeks, business days and minutes: the first forecast lies one step after the last value."""
    write_bundle(tmp_path / "m", freq=freq)
    assert first(launch(tmp_path / "m"), series(start=start, freq=freq))["ds"][0] == expected
