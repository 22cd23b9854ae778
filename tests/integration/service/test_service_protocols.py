"""Other protocols are thin: each gets the numbers of `POST /forecast`, and says what it cannot do."""

from __future__ import annotations

import io
import json

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import zstandard

from app.protocols.tables import ARROW, CSV, PARQUET
from app.settings import ServiceSettings
from models.columns import Columns
from tests.integration.service.live_service import running
from tests.integration.service.service_bundles import COLUMNS, CONTEXT, HORIZON, full_series, series, write_bundle

NUMERIC = Columns(futr_exog=("temp", "wind"), hist_exog=("flow",))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A model without covariates, and one with numeric ones; neither reads the calendar."""
    store = tmp_path_factory.mktemp("protocols")
    write_bundle(store / "plain" / "1")
    write_bundle(store / "rich" / "1", NUMERIC, seed=3)
    return store


@pytest.fixture
def served(launch, store):
    return launch(store, models=("plain", "rich"))


def asked(client, *many, **more):
    """What `POST /forecast` answers."""
    answer = client.post("/forecast", json={"series": list(many), **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["forecasts"]


def timegpt(**changes):
    y = series()["y"]
    return {"series": {"y": y + y[::-1], "sizes": [CONTEXT, CONTEXT]}, "model": "plain", "h": 3, "freq": "h"} | changes


def refused(client, path, body, **more):
    """Status, code and first field of a refusal."""
    answer = client.post(path, json=body, **more)
    problem = answer.json()
    return answer.status_code, problem["code"], (problem.get("errors") or [{"path": ""}])[0]["path"]


def test_the_public_nixtla_client_forecasts_with_levels_and_covariates(store, tmp_path):
    """Unchanged but for `base_url`, on its own frames and column names: forecast, cross-validation, anomalies, key check."""
    nixtla = pytest.importorskip("nixtla")
    rng = np.random.default_rng(0)
    hours = pd.date_range("2026-01-01", periods=30, freq="h")
    past = pd.DataFrame({"shop": np.repeat(["b", "a"], 30), "when": np.tile(hours, 2)})
    for name in ("sales", "temp", "wind", "flow"):
        past[name] = rng.normal(50, 9, 60).astype("float32")
    ahead = pd.DataFrame(
        {"shop": np.repeat(["b", "a"], HORIZON), "when": np.tile(hours[-1] + pd.to_timedelta(range(1, HORIZON + 1), "h"), 2)}
    )
    for name in ("temp", "wind"):
        ahead[name] = rng.normal(50, 9, 2 * HORIZON).astype("float32")
    names = {"id_col": "shop", "time_col": "when", "target_col": "sales"}
    settings = ServiceSettings(
        bundle=store, jobs_directory=tmp_path, job_workers=0, poll_seconds=1000.0, models=("rich", "plain")
    )
    with running(settings) as address:
        client = nixtla.NixtlaClient(api_key="any", base_url=address)
        assert client.validate_api_key()
        found = client.forecast(past, h=HORIZON, level=[50, 80], X_df=ahead, freq="h", hist_exog_list=["flow"], **names)
        alone = past[["shop", "when", "sales"]]
        plain = client.forecast(alone, h=2, freq="h", model="plain", quantiles=[0.1, 0.5, 0.9], **names)
        windows = client.cross_validation(alone, h=2, n_windows=3, freq="h", model="plain", **names)
        anomalies = client.detect_anomalies(alone, freq="h", level=80, model="plain", **names)
        wanted = [
            {
                "unique_id": shop, "start": "2026-01-01T00:00:00", "y": known["sales"].astype(float).tolist(),
                "futr_exog": {
                    name: [*known[name].astype(float), *ahead[ahead["shop"] == shop][name].astype(float)]
                    for name in ("temp", "wind")
                },
                "hist_exog": {"flow": known["flow"].astype(float).tolist()},
            }
            for shop, known in past.groupby("shop")
        ]  # fmt: skip
        answer = httpx.post(f"{address}/forecast", json={"model": "rich", "level": [50, 80], "series": wanted}).json()
    for forecast in answer["forecasts"]:
        mine = found[found["shop"] == forecast["unique_id"]]
        assert mine["when"].dt.strftime("%Y-%m-%dT%H:%M:%S").tolist() == forecast["ds"]
        assert mine["TimeGPT"].tolist() == pytest.approx(forecast["mean"], rel=1e-6)
        for side in ("lo-50", "hi-50", "lo-80", "hi-80"):
            assert mine[f"TimeGPT-{side}"].tolist() == pytest.approx(forecast["intervals"][side], rel=1e-6)
    assert (plain["TimeGPT-q-10"] <= plain["TimeGPT-q-90"]).all()
    last = windows[windows["cutoff"] == windows["cutoff"].max()]
    before = alone[alone["when"] <= windows["cutoff"].max()]
    assert len(windows) == 2 * 3 * 2
    assert len(last) == 4
    assert last["sales"].tolist() == pytest.approx(
        alone[alone["when"] > before["when"].max()].sort_values(["shop", "when"])["sales"].tolist()
    )
    outside = (anomalies["sales"] < anomalies["TimeGPT-lo-80"]) | (anomalies["sales"] > anomalies["TimeGPT-hi-80"])
    assert anomalies["anomaly"].tolist() == outside.tolist()


def test_timegpt_windows_are_forecasts_from_their_cutoffs(served):
    """Every window is what `POST /forecast` says from the values before it."""
    y = [float(value) for value in np.random.default_rng(1).normal(10, 3, CONTEXT + 8)]
    body = timegpt(series={"y": y, "sizes": [len(y)]}, h=2, n_windows=2, step_size=3)
    answer = served.post("/v2/cross_validation", json=body).json()
    cutoffs = (len(y) - 5, len(y) - 2)
    assert answer["sizes"] == [4]
    assert answer["idxs"] == [place for cutoff in cutoffs for place in (cutoff, cutoff + 1)]
    expected = [asked(served, series(y=y[:cutoff]), model="plain", horizon=2)[0]["mean"] for cutoff in cutoffs]
    assert answer["mean"] == pytest.approx([value for mean in expected for value in mean], rel=1e-6)


def test_timegpt_with_first_timestamps_serves_a_model_that_reads_the_calendar(launch, tmp_path):
    """Without them its calendar would be a guess, so it is refused; with them the forecast is that of `POST /forecast`."""
    write_bundle(tmp_path / "store" / "clock" / "1", Columns(calendar=("hour_of_day_sin", "hour_of_day_cos")))
    client = launch(tmp_path / "store")
    body = {"series": {"y": series()["y"], "sizes": [CONTEXT]}, "h": HORIZON, "freq": "h"}
    assert refused(client, "/v2/forecast", body)[:2] == (422, "protocol_unsupported")
    body["series"]["start_datetime"] = ["2026-01-01T00:00:00"]
    assert client.post("/v2/forecast", json=body).json()["mean"] == asked(client, series())[0]["mean"]


def test_timegpt_windows_keep_their_time(launch, tmp_path):
    """A window far into a series is told its own hour, though only its context is passed on."""
    write_bundle(tmp_path / "store" / "clock" / "1", Columns(calendar=("hour_of_day_sin", "hour_of_day_cos")))
    client = launch(tmp_path / "store")
    y = [float(value) for value in np.random.default_rng(3).normal(10, 3, CONTEXT + 20)]
    body = {"series": {"y": y, "sizes": [len(y)], "start_datetime": ["2026-01-01T00:00:00"]}, "h": 2, "freq": "h"}
    answer = client.post("/v2/cross_validation", json=body).json()
    assert answer["mean"] == pytest.approx(asked(client, series(y=y[:-2]), horizon=2)[0]["mean"], rel=1e-6)
    body["series"]["start_datetime"] = ["soon"]
    assert refused(client, "/v2/cross_validation", body) == (422, "request_invalid", "series.start_datetime.0")


@pytest.mark.parametrize("level", [0, 100, -5, [], [80, 90], [0]])
def test_timegpt_anomalies_take_one_level(served, level):
    """A level that is no interval is the caller's mistake, never the service's failure."""
    body = {"series": {"y": [1.0, 2.0] * 20, "sizes": [40]}, "freq": "h", "level": level}
    assert refused(served, "/v2/anomaly_detection", body)[:2] == (422, "request_invalid")


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"finetune_steps": 5}, "request_invalid", ""),
        ({"made_up": 1}, "request_invalid", ""),
        ({"h": HORIZON + 1}, "horizon_too_long", "horizon"),
        ({"h": 0}, "request_invalid", "h"),
        ({"level": [99.9]}, "level_unavailable", "level.0"),
        ({"freq": "D"}, "nothing_to_forecast", "series.0.freq"),
        ({"model": "rich"}, "request_invalid", "series.X"),
        ({"series": {"y": [1.0], "sizes": [2]}}, "request_invalid", "series.sizes"),
        ({"series": {"y": [None, 1.0], "sizes": [1, 1]}}, "nothing_to_forecast", "series.0.y"),
        ({"series": {"y": [1.0], "sizes": [1], "X": [[1.0]]}}, "request_invalid", "series.X"),
        ({"series": {"y": [1.0], "sizes": [1], "start_datetime": []}}, "request_invalid", "series.start_datetime"),
    ],
)
def test_timegpt_says_what_it_cannot_do(served, changes, code, path):
    """Each wrong request has its code and the place of its fault, and is refused as a whole."""
    assert refused(served, "/v2/forecast", timegpt(**changes)) == (422, code, path)


def test_timegpt_bounds_its_windows(launch, store):
    """A short request cannot ask for more forecasts than a long one."""
    client = launch(store, models=("plain",), max_series=10)
    assert refused(client, "/v2/cross_validation", timegpt(n_windows=100_000))[:2] == (413, "too_many_series")
    long = {"y": [1.0, 2.0] * 200, "sizes": [400]}
    assert refused(client, "/v2/anomaly_detection", {"series": long, "freq": "h", "level": 80})[:2] == (413, "too_many_series")


def test_kserve_forecasts_and_names_its_models(client):
    """Inputs, options and outputs as in KServe's schema; covariates may stand beside a series."""
    one = full_series("x")
    given = {
        "type": "univariate_time_series", "name": "x", "series": one["y"], "frequency": "H", "start_timestamp": one["start"],
        **{role: one[role] for role in ("futr_exog", "hist_exog", "stat_exog")},
    }  # fmt: skip
    broken = given | {"name": "broken", "series": [], "futr_exog": {}}
    body = {"model": "full", "inputs": [given, broken], "options": {"horizon": 3, "quantiles": [0.1, 0.9]}}
    answer = client.post("/v1/timeseries/forecast", json=body).json()
    expected = asked(client, full_series("x"), model="full", horizon=3, quantiles=[0.1, 0.9])[0]
    good, bad = answer["outputs"]
    forecast = good["content"][0]
    assert forecast["mean_forecast"] == expected["mean"]
    assert forecast["quantiles"] == expected["quantiles"]
    assert (forecast["start_timestamp"], forecast["frequency"], forecast["name"]) == (expected["ds"][0], "H", "x")
    assert (answer["status"], good["status"], bad["status"], bad["content"]) == ("partial", "completed", "error", [])
    assert bad["error"]["param"] == "inputs.1"
    assert client.get("/v1/timeseries/models").json() == ["plain", "full"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"frequency": "day"}, "nothing_to_forecast"),
        ({"type": "multivariate_time_series"}, "protocol_unsupported"),
        ({"start_timestamp": None}, "request_invalid"),
        ({"series": [[1.0], [2.0]]}, "request_invalid"),
    ],
)
def test_kserve_says_what_it_cannot_do(client, change, code):
    """Other units, several variables, no time: each with its code."""
    given = {
        "type": "univariate_time_series", "name": "x", "series": series()["y"], "frequency": "hour",
        "start_timestamp": "2026-01-01T00:00:00",
    } | change  # fmt: skip
    assert refused(client, "/v1/timeseries/forecast", {"model": "plain", "inputs": [given], "options": {"horizon": 2}})[1] == code


def test_deepar_request_as_boto3_sends_it(served):
    """`instances` with "NaN" for missing values, dynamic features in the model's order, quantile levels as text."""
    rng = np.random.default_rng(2)
    y = [*rng.normal(10, 3, CONTEXT - 1).tolist(), "NaN"]
    temp = rng.normal(0, 1, CONTEXT + HORIZON).tolist()
    body = {
        "instances": [{"start": "2026-01-01 00:00:00", "target": y}],
        "configuration": {"num_samples": 50, "output_types": ["mean", "quantiles"], "quantiles": ["0.1", "0.90"]},
    }
    content = json.dumps(body).encode()
    answer = served.post("/invocations", content=content, headers={"Content-Type": "application/json", "Accept": "*/*"}).json()
    known = series(y=[*y[:-1], None])
    expected = asked(served, known, model="plain", quantiles=[0.1, 0.9])[0]
    assert answer["predictions"][0]["mean"] == expected["mean"]
    assert answer["predictions"][0]["quantiles"] == {"0.1": expected["quantiles"]["0.1"], "0.90": expected["quantiles"]["0.9"]}
    few = {"instances": [{"start": "2026-01-01", "target": y, "dynamic_feat": [temp]}]}
    assert refused(served, "/invocations?model=rich", few) == (422, "request_invalid", "instances.0.dynamic_feat")
    samples = body | {"configuration": {"output_types": ["samples"]}}
    assert refused(served, "/invocations", samples)[1] == "protocol_unsupported"
    assert served.get("/ping").status_code == 200


def rows(one, horizon=HORIZON):
    """The rows of a series with its future, as a frame."""
    count = len(one["y"])
    frame = pd.DataFrame({"unique_id": one["unique_id"], "ds": pd.date_range(one["start"], periods=count + horizon, freq="h")})
    frame["y"] = [*one["y"], *[None] * horizon]
    for name, values in {**one["futr_exog"], **one["hist_exog"]}.items():
        frame[name] = [*values, *[None] * (len(frame) - len(values))]
    return frame.assign(**one["stat_exog"])


def test_mlflow_scoring_request_by_split_records_and_csv(client):
    """As MLflow documents it; the answer has the rows of the registered pyfunc."""
    one = full_series("x")
    frame = rows(one)
    expected = asked(client, one, model="full")[0]
    plain = json.loads(frame.to_json(orient="split", date_format="iso", index=False))
    bodies = [
        {"json": {"dataframe_split": plain}},
        {"json": {"dataframe_records": json.loads(frame.to_json(orient="records", date_format="iso"))}},
        {"content": frame.to_csv(index=False), "headers": {"Content-Type": "text/csv"}},
    ]
    for body in bodies:
        answer = client.post("/invocations", params={"model": "full"}, **body)
        assert answer.status_code == 200, answer.text
        predictions = answer.json()["predictions"]
        assert [row["mean"] for row in predictions] == pytest.approx(expected["mean"], rel=1e-6)
        assert [row["ds"] for row in predictions] == expected["ds"]
        assert {"unique_id", "ds", "mean", "0.1", "0.5", "0.9"} <= set(predictions[0])


@pytest.mark.parametrize("kind", [CSV, PARQUET, ARROW])
def test_tables_in_and_out_hold_the_numbers_of_json(client, kind):
    """Every format, with covariates, several series out of order, packed, and read back by pandas or Arrow."""
    many = [full_series(name, num_steps=CONTEXT + extra) for extra, name in enumerate("ba")]
    frame = pd.concat([rows(one) for one in many]).sort_values("ds", kind="stable")
    expected = asked(client, *many, model="full", level=[80], quantiles=[], horizon=4)
    answer = client.post(
        "/forecast", params={"model": "full", "horizon": 4, "level": "80", "quantiles": ""}, content=packed(frame, kind),
        headers={"Content-Type": kind, "Accept": kind, "Content-Encoding": "zstd"},
    )  # fmt: skip
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind), answer.text
    found = unpacked(answer.content, kind)
    assert list(found.columns)[:5] == ["unique_id", "ds", "mean", "lo-80", "hi-80"]
    for forecast in expected:
        mine = found[found["unique_id"] == forecast["unique_id"]]
        assert pd.to_datetime(mine["ds"]).dt.strftime("%Y-%m-%dT%H:%M:%S").tolist() == forecast["ds"]
        assert mine["mean"].tolist() == pytest.approx(forecast["mean"], rel=1e-6)
        assert mine["lo-80"].tolist() == pytest.approx(forecast["intervals"]["lo-80"], rel=1e-6)


def packed(frame, kind):
    stream = io.BytesIO()
    if kind == CSV:
        frame.to_csv(stream, index=False)
    elif kind == PARQUET:
        frame.to_parquet(stream, index=False)
    else:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
    return zstandard.ZstdCompressor().compress(stream.getvalue())


def unpacked(content, kind):
    if kind == CSV:
        return pd.read_csv(io.BytesIO(content))
    if kind == PARQUET:
        return pd.read_parquet(io.BytesIO(content))
    return pa.ipc.open_stream(content).read_all().to_pandas()


def test_formats_of_body_and_answer_are_chosen_apart(client):
    """JSON in and CSV out, CSV in and JSON out; a known series is asked for by its name alone."""
    one = series("x")
    table = client.post("/forecast", json={"model": "plain", "series": [one]}, headers={"Accept": CSV})
    assert table.text.splitlines()[0].replace('"', "").startswith("unique_id,ds,mean")
    content = "unique_id,ds,y\n" + "".join(f"x,2026-01-01T{hour:02d}:00:00,{value}\n" for hour, value in enumerate(one["y"]))
    headers = {"Content-Type": CSV, "Accept": "application/json"}
    answer = client.post("/forecast", params={"model": "plain"}, content=content, headers=headers).json()
    assert answer["forecasts"][0]["mean"] == asked(client, one, model="plain")[0]["mean"]
    known = client.post("/forecast", params={"model": "plain"}, content="unique_id\nknown\n", headers=headers).json()
    assert known["forecasts"][0]["mean"] == asked(client, {"unique_id": "known"}, model="plain")[0]["mean"]


def test_invocations_are_told_apart_by_members_not_by_words(client):
    """A frame with a column that is called `instances` is still a frame."""
    one = series("x")
    rows = [
        {"unique_id": "instances", "ds": f"2026-01-01T{hour:02d}:00:00", "y": value, "instances": 1.0}
        for hour, value in enumerate(one["y"])
    ]
    answer = client.post("/invocations", params={"model": "plain"}, json={"dataframe_records": rows})
    expected = asked(client, one, model="plain")[0]["mean"]
    assert [row["mean"] for row in answer.json()["predictions"]] == pytest.approx(expected, rel=1e-6)


def compressed_arrow():
    stream = io.BytesIO()
    table = pa.table({"ds": ["2026-01-01"] * 100_000, "y": [1.0] * 100_000})
    with pa.ipc.new_stream(stream, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return stream.getvalue()


def bomb_parquet():
    stream = io.BytesIO()
    pq.write_table(pa.table({"ds": ["2026-01-01"] * 20_000_000, "y": [1.0] * 20_000_000}), stream, compression="zstd")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "content", "code"),
    [
        (CSV, b"\xff\xfe\x00", "table_invalid"),
        (CSV, b"a,b\n1,2\n", "nothing_to_forecast"),
        (CSV, b"ds,y\n2026-01-01,much\n", "table_invalid"),
        (CSV, b"ds,y\n", "table_invalid"),
        (CSV, b"ds,y\n2026-01-01,inf\n", "table_invalid"),
        (PARQUET, b"PAR1 no", "table_invalid"),
        (ARROW, b"\xff\xff\xff\xff\x00\x01\x00\x00", "table_invalid"),
        (ARROW, compressed_arrow(), "table_invalid"),
        (PARQUET, bomb_parquet(), "body_too_large"),
    ],
)
def test_broken_tables_are_refused_in_words(client, kind, content, code):
    """Never a traceback, never memory that the limit does not allow."""
    answer = client.post("/forecast", params={"model": "plain"}, content=content, headers={"Content-Type": kind})
    assert (answer.status_code // 100, answer.json()["code"]) == (4, code)


def test_a_table_has_a_query_of_its_own(client):
    """Parameters that are none, and covariates that are missing, are named."""
    headers = {"Content-Type": CSV}
    wrong = client.post("/forecast", params={"modell": "plain"}, content=b"ds,y\n2026-01-01,1\n", headers=headers).json()
    assert (wrong["code"], wrong["errors"][0]["path"]) == ("request_invalid", "modell")
    content = b"ds,y\n2026-01-01T00:00:00,1\n"
    for query in ({"level": "150"}, {"level": "80,much"}, {"quantiles": "1.5"}, {"quantiles": "nan"}, {"horizon": "0"}):
        answer = client.post("/forecast", params={"model": "plain", **query}, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), query
    missing = client.post("/forecast", params={"model": "full"}, content=content, headers=headers).json()
    assert missing["code"] == "table_invalid"
    assert COLUMNS.futr_exog[0] in missing["detail"]
