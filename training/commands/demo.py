"""Train on the shipped real data, register, serve, ask for a forecast, print it.

Hourly traffic on the I-94 westbound, Minneapolis-St Paul, 2017-2018, with weather and holidays. Ends by itself.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

from training.commands import serve, train
from training.commands.options import add_tracking_argument

MODEL: Literal["metro_traffic"] = "metro_traffic"
# The last four weeks, from 28 daily origins, are never trained on nor selected on. The rate was chosen on eight weeks of
# validation, two seeds (MASE 0.58 at 0.001, 0.54 at 0.003, and on four weeks 0.50 at 0.006, 0.49 at 0.01).
SETTINGS = (
    "data.futr_exog=[is_holiday]",
    "data.season_length=168",
    "data.test_size=672",
    "data.val_size=672",
    "model.context_length=168",
    "model.horizon=24",
    "model.initialization=torch",
    "optimizer.learning_rate=0.01",
    f"tracking.model_name={MODEL}",
)
READY_SECONDS = 60
STOP_SECONDS = 15
EXIT_ENVIRONMENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `gradcast demo`."""
    parser.add_argument("--max-steps", type=int, metavar="N", help="optimizer steps at most")
    parser.add_argument("--no-serve", action="store_true", help="stop after registering")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a configuration key (repeatable)",
    )
    add_tracking_argument(parser)


def run(options: argparse.Namespace) -> int:
    """The whole road, from file to forecast."""
    from training.allocator import keep_freed_memory

    keep_freed_memory()
    from training.config import TrackingConfig, load_config
    from training.data.shipped import shipped_path
    from training.loop import FitInterruptedError
    from training.mending import train_and_heal
    from training.outcome import summarize
    from training.progress import build_progress
    from training.tracking.environment import resolve_uri

    data = shipped_path(MODEL)
    flags = {"data.path": str(data), "fit.max_steps": options.max_steps, "tracking.uri": options.tracking_uri}
    config = load_config(None, [*SETTINGS, *options.overrides], flags)
    _heading(f"1. train: gradcast train --data {data.name} " + " ".join(f"--set {setting}" for setting in SETTINGS))
    try:
        result = train_and_heal(
            config, train.build_tracker(config), train.build_tracker, build_progress(quiet=False), _say,
            stop_requested=train.StopRequest().requested,
        )  # fmt: skip
    except FitInterruptedError as stopped:
        way_on = "" if stopped.directory is None else f"; continue: gradcast train --resume {stopped.directory}"
        print(f"gradcast demo: stopped{way_on}", file=sys.stderr)
        return train.EXIT_STOPPED
    print(summarize(result))
    uri = resolve_uri(TrackingConfig(uri=options.tracking_uri))
    if not options.no_serve and result.model is not None:
        _heading("2. serve and ask: POST /forecast")
        if not _ask_service(f"{result.model.name}/{result.model.version}", uri):
            return EXIT_ENVIRONMENT
    _heading("3. look")
    print("dashboard: gradcast up      then open http://127.0.0.1:5000 and http://127.0.0.1:8000/docs")
    print(f"run:       {result.directory} (figures/, gradients/, backtest/, bundle/)")
    return 0


def _ask_service(model: str, uri: str) -> bool:
    port = _free_port()
    options = argparse.Namespace(
        model=[model.partition("/")[0]], bundle=None, host=serve.DEFAULT_HOST, port=port, tracking_uri=uri, open=True
    )
    log = Path("runs") / "demo-service.log"
    with log.open("w") as stream:
        environment = serve.service_environment(options)
        process = subprocess.Popen(serve.SERVICE_COMMAND, env=environment, stdout=stream, stderr=stream)  # noqa: S603  our own interpreter, no shell
    try:
        base = f"http://{serve.DEFAULT_HOST}:{port}"
        if not _wait_until_ready(base, process):
            print(f"gradcast demo: the service did not become ready; its log is {log}", file=sys.stderr)
            return False
        # The series is known to the model, but its weather and holidays of tomorrow are not: they go with the request.
        body = {"model": model, "level": [80], "series": [_request_series()]}
        print(f'curl -s {base}/forecast -d \'{{"model": "{model}", "level": [80], "series": [...168 hours...]}}\'')
        answer = _post(f"{base}/forecast", body)
        if answer is None:
            return False
        _print_forecast(answer)
        return True
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def _request_series() -> dict[str, Any]:
    import pandas as pd

    from training.data.shipped import shipped_path

    frame = pd.read_csv(shipped_path(MODEL), parse_dates=["ds"]).set_index("ds")
    hours = pd.date_range(end=frame.index[-1], periods=168, freq="h")
    recent = frame.reindex(hours)
    holidays = [int(value) for value in recent["is_holiday"].ffill().fillna(0)]
    values = [None if pd.isna(value) else float(value) for value in recent["y"]]
    return {
        "unique_id": str(frame["unique_id"].iloc[0]), "start": hours[0].isoformat(), "freq": "h", "y": values,
        "futr_exog": {"is_holiday": holidays + [0] * 24},
    }  # fmt: skip


def _print_forecast(answer: dict[str, Any]) -> None:
    model, forecast = answer["model"], answer["forecasts"][0]
    print(f"model {model['name']} version {model['version']}, verdict {model['verdict']}\n")
    print(f"{'time':<20}{'vehicles/h':>12}{'80 % interval':>20}")
    intervals = forecast["intervals"]
    top = max(forecast["mean"])
    for time_, mean, low, high in zip(
        forecast["ds"], forecast["mean"], intervals["lo-80"], intervals["hi-80"], strict=True
    ):
        bar = "#" * round(30 * max(mean, 0) / top)
        print(f"{time_[:16].replace('T', ' '):<20}{mean:>12.0f}{f'{low:.0f} .. {high:.0f}':>20}  {bar}")


def _wait_until_ready(base: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{base}/readyz", timeout=2):  # noqa: S310  our own address
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def _post(url: str, body: dict[str, Any]) -> dict[str, Any] | None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310  our own address
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310  our own address
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        print(f"gradcast demo: {url} answered {error.code}: {error.read().decode()}", file=sys.stderr)
        return None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((serve.DEFAULT_HOST, 0))
        return int(listener.getsockname()[1])


def _heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _say(sentence: str) -> None:
    print(f"   {sentence}", file=sys.stderr, flush=True)
