"""Runs, registry and sync against a real sqlite store, the sender in this process (its own process: test_tracking_server)."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from models.bundle import BundleManifest, load_bundle, save_bundle
from models.columns import Columns
from models.config import LSTMConfig
from models.registry import build_forecaster
from training.errors import ConfigurationError, ModelNotFoundError, TrackingError
from training.forecasting import forecast_frame
from training.tracking import registry
from training.tracking.environment import open_client
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.sender import Shipper
from training.tracking.sink import MlflowSink
from training.tracking.spool import Spool
from training.tracking.sync import close_stale_runs, sync
from training.tracking.tracker import DatasetDescription, RegistrationRequest, RunDescription

REPOSITORY = Path(__file__).parents[2]
HEALTHY = {"gradient.verdict": "healthy"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose name has a space, as people's directories do."""
    directory = tmp_path_factory.mktemp("tracking") / "my runs"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def uri(root: Path) -> str:
    """One store for all tests here: creating its tables takes seconds."""
    return f"sqlite:///{root}/mlflow.db"


@pytest.fixture(scope="module")
def bundle(root: Path) -> Path:
    """A small real bundle with a known-future covariate and stored context."""
    config = LSTMConfig(context_length=12, horizon=3, hidden_size=4, num_past_covariates=1, num_future_covariates=1)
    context = pd.DataFrame(
        {"unique_id": "a", "ds": pd.date_range("2026-01-01", periods=12, freq="h"), "y": [0.0, 1.0, 2.0] * 4, "temp": 1.0},
    )
    manifest = BundleManifest(network=config, columns=Columns(futr_exog=("temp",)), freq="h", season_length=4, num_series=1)
    stream = io.BytesIO()
    context.to_parquet(stream, index=False)
    save_bundle(root / "bundle", build_forecaster(config), manifest, {"context.parquet": stream.getvalue()})
    return root / "bundle"


@pytest.fixture
def trackers(uri: str, tmp_path: Path) -> Iterator[Any]:
    """Makes trackers with a quick sender and a spool of the test's own, and ends them."""
    made: list[MlflowTracker] = []

    def make(description: RunDescription, **options: Any) -> MlflowTracker:
        tracker = MlflowTracker(uri, tmp_path / "spool", interval_seconds=0.05, in_process=True, **options)
        made.append(tracker)
        tracker.start(description)
        return tracker

    yield make
    for tracker in made:
        tracker._courier.stop()
        if tracker._spool is not None:
            tracker._spool.close()


def history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in open_client(uri).get_metric_history(run_id, key)]


def png(size: tuple[int, int] = (600, 300)) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", size, "navy").save(stream, "png")
    return stream.getvalue()


def test_run_arrives_as_it_was_recorded(uri: str, root: Path, trackers: Any) -> None:
    """Metrics with their steps, tags, parameters, data set, description and status are in the store; the spool is gone."""
    dataset = DatasetDescription("bike.csv", "data/bike.csv", "f" * 64, 100, 2, {"y": "target", "temp": "futr_exog"})
    tracker = trackers(RunDescription("arrival", "lstm bike", {"git.commit": "abc"}, {"fit.max_steps": "20"}, dataset))
    for step in range(20):
        tracker.log_metrics({"loss/train": 1 / (step + 1), "grad_norm/lstm.0.weight_hh.forget": step * 0.1}, step)
    tracker.log_tags({"gradient.verdict": "healthy"})
    tracker.log_note("# Bike")
    run_id = tracker.run_id
    assert tracker.finish("FINISHED") == 0
    run = open_client(uri).get_run(run_id)
    assert history(uri, run_id, "loss/train") == [(step, 1 / (step + 1)) for step in range(20)]
    assert history(uri, run_id, "grad_norm/lstm.0.weight_hh.forget") == [(step, step * 0.1) for step in range(20)]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "lstm bike")
    assert run.data.params == {"fit.max_steps": "20"}
    assert run.data.tags["git.commit"] == "abc"
    assert run.data.tags["mlflow.note.content"] == "# Bike"
    (described,) = run.inputs.dataset_inputs
    assert (described.dataset.name, described.dataset.digest) == ("bike.csv", "f" * 36)
    assert json.loads(described.dataset.profile) == {"num_rows": 100, "num_series": 2, "sha256": "f" * 64}
    assert run.info.artifact_uri.startswith((root / "artifacts").as_uri())
    assert list(tracker.spool_directory.iterdir()) == []


def test_infinity_is_recorded_as_nan_and_counted(uri: str, trackers: Any) -> None:
    """Inf and NaN become NaN points, never 1.8e308, and `tracking/nonfinite` counts them over the run."""
    tracker = trackers(RunDescription("nonfinite"))
    tracker.log_metrics({"grad_norm/total": math.inf, "loss/train": 1.0}, 1)
    tracker.log_metrics({"grad_norm/total": -math.inf, "loss/train": math.nan}, 2)
    run_id = tracker.run_id
    tracker.finish("FAILED")
    assert all(math.isnan(value) for _, value in history(uri, run_id, "grad_norm/total"))
    assert history(uri, run_id, "tracking/nonfinite") == [(1, 1.0), (2, 3.0)]


def test_pictures_reach_slider_and_artifacts(uri: str, trackers: Any) -> None:
    """With a step a picture gets the names the dashboard's slider reads and a thumbnail; without, its own path."""
    tracker = trackers(RunDescription("pictures"))
    tracker.log_figure("gradients/flow.png", png(), step=400)
    tracker.log_figure("gradients/flow.png", png())
    run_id = tracker.run_id
    tracker.finish("FINISHED")
    client = open_client(uri)
    names = sorted(Path(file.path).name for file in client.list_artifacts(run_id, "images"))
    assert [name.split("+timestamp")[0] for name in names] == ["gradients~flow+step+400"] * 2
    assert {name.rpartition(".")[2] for name in names} == {"png", "webp"}
    assert [file.path for file in client.list_artifacts(run_id, "gradients")] == ["gradients/flow.png"]
    assert client.get_run(run_id).data.tags["mlflow.loggedImages"] == "true"


def test_replayed_spool_changes_nothing(uri: str, trackers: Any, tmp_path: Path, bundle: Path) -> None:
    """Delivering a whole spool twice leaves one run, the same points, the same pictures and the same version."""
    dataset = DatasetDescription("d", "d", "1")
    tracker = trackers(RunDescription("replay", params={"a": "1"}, dataset=dataset, job_id="replay-job"))
    for step in range(5):
        tracker.log_metrics({"loss/train": float(step)}, step)
    tracker.log_figure("flow", png((8, 8)), step=1)
    tracker.log_artifact(bundle, "bundle")
    tracker.register(RegistrationRequest("replayed", bundle))
    run_id = tracker.run_id
    tracker._courier.stop()
    spool = tracker._spool
    assert spool is not None
    spool.append("finish", {"status": "FINISHED"})
    before = tmp_path / "kept"
    shutil.copytree(spool.directory, before)
    # Files that have arrived are deleted from the spool; a repetition after a lost acknowledgement still has them.
    for event in spool.read(0):
        if file := event.payload.get("file"):
            target = before / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            if event.kind == "image":
                target.write_bytes(png((8, 8)))
            else:
                shutil.copytree(bundle, target)
    spool.close()
    (before / "progress.json").unlink()
    replayed = Spool(before)
    assert Shipper(replayed, MlflowSink(uri, replayed)).ship() == replayed.count_events()
    client = open_client(uri)
    experiment = client.get_experiment_by_name("replay")
    assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [run_id]
    assert history(uri, run_id, "loss/train") == [(step, float(step)) for step in range(5)]
    assert len(client.list_artifacts(run_id, "images")) == 2
    assert [version.version for version in registry.show_model(uri, "replayed").versions] == [1]
    assert len(client.get_run(run_id).inputs.dataset_inputs) == 1
    assert client.get_run(run_id).info.status == "FINISHED"
    assert replayed.progress.num_rejected == 0


def test_resumed_job_continues_its_run_without_doubled_points(uri: str, trackers: Any) -> None:
    """A job that starts again goes on in its run; steps it repeats after its checkpoint appear once."""
    first = trackers(RunDescription("resume", params={"fit.max_steps": "6"}, job_id="job-7"))
    for step in range(1, 5):
        first.log_metrics({"loss/train": float(step)}, step)
    run_id = first.run_id
    first.finish("KILLED")
    second = trackers(RunDescription("resume", params={"fit.max_steps": "9"}, job_id="job-7"))
    for step in range(3, 7):  # the checkpoint was at step 2
        second.log_metrics({"loss/train": float(step)}, step)
    assert second.run_id == run_id
    assert open_client(uri).get_run(run_id).info.status == "RUNNING"
    second.finish("FINISHED")
    run = open_client(uri).get_run(run_id)
    assert history(uri, run_id, "loss/train") == [(step, float(step)) for step in range(1, 7)]
    assert run.info.status == "FINISHED"
    assert (run.data.params["fit.max_steps"], run.data.tags["resumed_with.fit.max_steps"]) == ("6", "9")


def test_first_healthy_version_is_champion_and_later_ones_wait(uri: str, trackers: Any, bundle: Path) -> None:
    """Aliases: unhealthy none, first healthy champion, later healthy challenger - whatever their number."""
    tracker = trackers(RunDescription("aliases"))
    unhealthy = tracker.register(RegistrationRequest("bike", bundle, healthy=False, tags={"gradient.verdict": "vanishing"}))
    champion = tracker.register(RegistrationRequest("bike", bundle, tags=HEALTHY, note="# Bike two"))
    later = tracker.register(RegistrationRequest("bike", bundle, tags=HEALTHY, alias="candidate"))
    run_id = tracker.run_id
    tracker.finish("FINISHED")
    assert [model.aliases for model in (unhealthy, champion, later)] == [(), ("champion",), ("candidate",)]
    entry = registry.show_model(uri, "bike")
    assert entry.aliases == {"champion": 2, "candidate": 3}
    assert entry.note == "# Bike two"
    assert [version.tags.get("gradient.verdict") for version in entry.versions] == ["healthy", "healthy", "vanishing"]
    assert {version.run_id for version in entry.versions} == {run_id}
    assert json.loads(json.dumps(entry.to_dict()))["versions"][0]["version"] == 3


def test_two_trainers_at_once_make_one_champion(uri: str, trackers: Any, bundle: Path, tmp_path: Path) -> None:
    """Of two runs that register the same new name at the same moment one becomes champion and the other challenger."""
    pair = [trackers(RunDescription("race")), MlflowTracker(uri, tmp_path / "other", interval_seconds=0.05, in_process=True)]
    pair[1].start(RunDescription("race"))
    with ThreadPoolExecutor(2) as pool:
        models = list(pool.map(lambda tracker: tracker.register(RegistrationRequest("raced", bundle)), pair))
    assert pair[0].finish("FINISHED") == pair[1].finish("FINISHED") == 0
    assert sorted(model.version for model in models) == [1, 2]
    assert registry.show_model(uri, "raced").aliases == {"champion": 1, "challenger": 2}


def test_references_resolve(uri: str, trackers: Any, bundle: Path) -> None:
    """A bare name is its champion, or its newest version while there is none; unknown things are not found."""
    tracker = trackers(RunDescription("resolve"))
    tracker.register(RegistrationRequest("resolved", bundle, healthy=False))
    assert registry.resolve(uri, "resolved").version == 1
    tracker.register(RegistrationRequest("resolved", bundle))
    tracker.register(RegistrationRequest("resolved", bundle))
    tracker.finish("FINISHED")
    assert [registry.resolve(uri, f"resolved{tail}").version for tail in ("", "@champion", "@challenger", "/1")] == [2, 2, 3, 1]
    assert "resolved" in [entry.name for entry in registry.list_models(uri)]
    for reference in ("resolved/9", "resolved@nobody", "unknown", "unknown@champion", "../resolved"):
        with pytest.raises(ModelNotFoundError):
            registry.resolve(uri, reference)


def test_rollback_undoes_promotions_one_by_one(uri: str, trackers: Any, bundle: Path) -> None:
    """After 1 -> 2 -> 3, rolling back gives 2, then 1, then says that there is nothing before."""
    tracker = trackers(RunDescription("rollback"))
    for _ in range(3):
        tracker.register(RegistrationRequest("rolled", bundle))
    tracker.finish("FINISHED")
    registry.promote(uri, "rolled", 2)
    assert registry.promote(uri, "rolled", 3).aliases == ("challenger", "champion")
    assert registry.rollback(uri, "rolled").version == 2
    assert registry.rollback(uri, "rolled").version == 1
    with pytest.raises(ModelNotFoundError, match="previous champion"):
        registry.rollback(uri, "rolled")
    assert registry.resolve(uri, "rolled").version == 1


def test_rollback_knows_a_champion_set_in_the_dashboard(uri: str, trackers: Any, bundle: Path) -> None:
    """A champion that somebody set elsewhere is taken back to the one before it, and deleted versions are passed over."""
    tracker = trackers(RunDescription("rollback"))
    for _ in range(4):
        tracker.register(RegistrationRequest("elsewhere", bundle))
    tracker.finish("FINISHED")
    client = open_client(uri)
    registry.promote(uri, "elsewhere", 2)
    registry.promote(uri, "elsewhere", 3)
    client.delete_model_version("elsewhere", "2")
    client.set_registered_model_alias("elsewhere", "champion", "4")
    assert registry.rollback(uri, "elsewhere").version == 3
    assert registry.rollback(uri, "elsewhere").version == 1


def test_promoting_what_is_not_there_is_refused(uri: str, trackers: Any, bundle: Path) -> None:
    """An alias never points to a version that does not exist, and a reserved alias is refused."""
    tracker = trackers(RunDescription("promote"))
    tracker.register(RegistrationRequest("promoted", bundle))
    tracker.finish("FINISHED")
    with pytest.raises(ModelNotFoundError):
        registry.promote(uri, "promoted", 7)
    with pytest.raises(ConfigurationError):
        registry.promote(uri, "promoted", 1, "latest")


def test_looking_for_a_model_creates_no_store(tmp_path: Path) -> None:
    """Listing and resolving where nothing was ever trained answers at once and leaves no file behind."""
    empty = f"sqlite:///{tmp_path}/none/mlflow.db"
    assert registry.list_models(empty) == []
    with pytest.raises(ModelNotFoundError):
        registry.resolve(empty, "bike")
    assert not (tmp_path / "none").exists()


def test_registered_bundle_comes_back_whole_and_nothing_is_pickled(
    uri: str, root: Path, trackers: Any, bundle: Path, tmp_path: Path
) -> None:
    """The version's files are data and source code: the bundle loads from the cache, and no pickle lies under the store."""
    tracker = trackers(RunDescription("bundle"))
    tracker.register(RegistrationRequest("whole", bundle))
    tracker.finish("FINISHED")
    directory = registry.download_bundle(uri, registry.resolve(uri, "whole"), tmp_path / "cache")
    assert load_bundle(directory).manifest == load_bundle(bundle).manifest
    suffixes = {path.suffix for path in (root / "artifacts").rglob("*") if path.is_file()}
    assert "" in suffixes  # the MLmodel file
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".cloudpickle"}
    for path in (root / "artifacts").rglob("*"):
        assert path.is_dir() or not path.read_bytes().startswith(b"\x80"), path


def test_registered_model_forecasts_without_this_project(uri: str, trackers: Any, bundle: Path, tmp_path: Path) -> None:
    """`mlflow.pyfunc.load_model` answers its own example from the code stored with it, with the bundle's forecast."""
    tracker = trackers(RunDescription("pyfunc"))
    model = tracker.register(RegistrationRequest("pyfunc", bundle))
    tracker.finish("FINISHED")
    program = f"""
import sys
import mlflow.pyfunc
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model({model.uri!r})
answer = model.predict(model.input_example)
import models, training
assert all("/code/" in package.__file__ for package in (models, training))
assert "training.tracking" not in sys.modules
print(answer.to_json(orient="split", date_format="iso"))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-W", "ignore", "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    frame = pd.read_parquet(bundle / "context.parquet")
    future = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2026-01-01T12:00", periods=3, freq="h"), "temp": 1.0})
    expected = forecast_frame(load_bundle(bundle), pd.concat([frame, future], ignore_index=True))
    assert answer["columns"] == list(expected.columns)
    assert [row[1][:16] for row in answer["data"]] == ["2026-01-01T12:00", "2026-01-01T13:00", "2026-01-01T14:00"]
    for row, wanted in zip(answer["data"], expected.iloc[:, 2:].to_numpy().tolist(), strict=True):
        assert row[2:] == pytest.approx(wanted, rel=1e-5)


def test_refused_registration_is_an_error_that_says_why(trackers: Any, tmp_path: Path) -> None:
    """A directory that is no bundle cannot be registered, and the caller learns it; the run itself is unharmed."""
    (tmp_path / "nothing").mkdir()
    tracker = trackers(RunDescription("refused"))
    with pytest.raises((TrackingError, ModelNotFoundError), match=r"bundle\.json"):
        tracker.register(RegistrationRequest("refused", tmp_path / "nothing"))
    assert tracker.finish("FINISHED") == 0


def test_killed_process_is_completed_by_sync(uri: str, tmp_path: Path) -> None:
    """`kill -9` loses nothing recorded: sync sends the rest and closes the run; a second sync finds nothing."""
    program = f"""
import os, sys, time
from pathlib import Path
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.tracker import RunDescription
tracker = MlflowTracker({uri!r}, Path({str(tmp_path / "spool")!r}), in_process=True, interval_seconds=0.05)
tracker.start(RunDescription("killed", job_id="killed-job"))
for step in range(100):
    tracker.log_metrics({{"loss/train": step * 0.5, "grad_norm/total": 1.0 + step}}, step)
print(tracker.run_id, flush=True)
for step in range(100, 1000):
    tracker.log_metrics({{"loss/train": step * 0.5, "grad_norm/total": 1.0 + step}}, step)
print("recorded", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    assert process.stdout.readline().strip() == "recorded"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    report = sync(tmp_path / "spool", uri)
    (run,) = report.runs
    assert (run.run_id, run.num_unsent, run.state) == (run_id, 0, "closed")
    expected = [(step, step * 0.5) for step in range(1000)]
    assert history(uri, run_id, "loss/train") == expected
    assert sync(tmp_path / "spool", uri).runs == ()
    assert history(uri, run_id, "loss/train") == expected
    assert open_client(uri).get_run(run_id).info.status == "KILLED"


def test_sync_leaves_a_living_run_alone(uri: str, trackers: Any) -> None:
    """A spool whose process lives is reported as running, and its run stays open."""
    tracker = trackers(RunDescription("alive"))
    tracker.log_metrics({"loss/train": 1.0}, 1)
    run_id = tracker.run_id
    report = sync(tracker.spool_directory, uri)
    assert [run.state for run in report.runs] == ["running"]
    assert open_client(uri).get_run(run_id).info.status == "RUNNING"
    tracker.finish("FINISHED")


def test_sync_does_not_close_a_run_that_another_process_took_over(uri: str, trackers: Any, tmp_path: Path) -> None:
    """A job taken up on another machine keeps its run open when the dead machine's spool is sent at last."""
    first = trackers(RunDescription("takeover", job_id="moved"))
    first.log_metrics({"loss/train": 1.0}, 1)
    run_id = first.run_id
    first._courier.stop()
    first._spool.close()  # the first machine dies without a finish
    other = MlflowTracker(uri, tmp_path / "other", interval_seconds=0.05, in_process=True)
    other.start(RunDescription("takeover", job_id="moved"))
    assert other.run_id == run_id
    assert [run.state for run in sync(first.spool_directory, uri).runs] == ["closed"]
    assert open_client(uri).get_run(run_id).info.status == "RUNNING"
    assert other.finish("FINISHED") == 0
    assert open_client(uri).get_run(run_id).info.status == "FINISHED"


def test_run_with_a_stale_heartbeat_is_closed(uri: str) -> None:
    """A run whose last sign of life is too old is closed as KILLED; one that signed a moment ago is not."""
    client = open_client(uri)
    experiment = client.create_experiment("stale")
    now_ms = time.time_ns() // 1_000_000
    old = client.create_run(experiment, tags={"gradcast.heartbeat": str(now_ms - 3_600_000)})
    new = client.create_run(experiment, tags={"gradcast.heartbeat": str(now_ms)})
    foreign = client.create_run(experiment)
    assert close_stale_runs(uri) == 1
    assert [client.get_run(run.info.run_id).info.status for run in (old, new, foreign)] == ["KILLED", "RUNNING", "RUNNING"]


def test_server_that_is_away_costs_nothing_until_the_end(tmp_path: Path, uri: str) -> None:
    """With nobody at the address the run is recorded, `finish` counts what waits, and sync can send it elsewhere."""
    tracker = MlflowTracker("http://127.0.0.1:9", tmp_path / "spool", in_process=True, interval_seconds=0.05)
    tracker.start(RunDescription("away", job_id="away-job"))
    slowest = 0.0
    for step in range(200):
        started = time.perf_counter()
        tracker.log_metrics({f"grad_norm/lstm.{i}": float(step) for i in range(30)}, step)
        slowest = max(slowest, time.perf_counter() - started)
    assert slowest < 0.05
    assert tracker.finish("FINISHED", deadline_seconds=0.5) == 202
    waiting = sync(tmp_path / "spool")
    assert (waiting.num_sent, waiting.num_unsent, waiting.runs[0].state) == (0, 202, "unreachable")
    report = sync(tmp_path / "spool", uri)
    assert (report.num_sent, report.num_unsent, report.runs[0].state) == (202, 0, "complete")
    assert len(history(uri, str(report.runs[0].run_id), "grad_norm/lstm.7")) == 200


def test_strict_mode_insists_on_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tracking.required turns a server that does not answer into a TrackingError at the start."""
    monkeypatch.setattr("training.tracking.mlflow_tracker.START_DEADLINE_SECONDS", 0.5)
    tracker = MlflowTracker("http://127.0.0.1:9", tmp_path / "spool", required=True, in_process=True)
    with pytest.raises(TrackingError, match="must be reachable"):
        tracker.start(RunDescription("strict"))


def test_unwritable_spool_is_a_tracking_error(tmp_path: Path, uri: str) -> None:
    """A spool that cannot be created is said at the start, not discovered after the training."""
    (tmp_path / "file").write_text("")
    tracker = MlflowTracker(uri, tmp_path / "file" / "spool", in_process=True)
    with pytest.raises(TrackingError, match="spool directory"):
        tracker.start(RunDescription("unwritable"))
    assert tracker.finish("FAILED") == 0


def test_odd_job_ids_become_harmless_names(trackers: Any) -> None:
    """A job id with slashes or quotes names neither another directory nor another query."""
    tracker = trackers(RunDescription("odd", job_id="../../x' or '1'='1"))
    assert tracker.run_id is not None
    (spool,) = tracker.spool_directory.iterdir()
    assert spool.name.isalnum()
    tracker.finish("FINISHED")


def test_standard_output_stays_clean(tmp_path: Path) -> None:
    """A tracked run and a registration on a new store print nothing to stdout, which `--json` needs for itself."""
    program = f"""
import sys
from pathlib import Path
from training.tracking.mlflow_tracker import MlflowTracker
from training.tracking.tracker import RunDescription
tracker = MlflowTracker("sqlite:///{tmp_path}/mlflow.db")
tracker.start(RunDescription("quiet"))
assert "mlflow" not in sys.modules
tracker.log_metrics({{"loss/train": 1.0}}, 1)
assert tracker.finish("FINISHED", deadline_seconds=60) == 0
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
