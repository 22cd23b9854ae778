"""Latency, throughput and memory of one small LSTM behind HTTP: gradcast, two limits without any checks, and four servers.

All servers run at once and are driven in turn, a second or two each, so that a noisy minute of the machine hits
everybody; ratios are taken round by round. `wrk` makes the load. LitServe and BentoML run from environments of their own
(benchmarks/setup_peers.sh litserve bentoml) and are left out, aloud, where those are missing.

usage: benchmarks/serving/run.py [--rounds 3] [--seconds 2] [--only bare,gradcast] [--no-overload]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import psutil  # noqa: E402
from reporting import machine, write_results  # noqa: E402

from network import write_all  # noqa: E402  isort: skip
from overload import measure_overload  # noqa: E402  isort: skip

PEERS = HERE.parent / ".peers"
BIN = Path(sys.executable).parent
FIRST_PORT = 18500
READY_SECONDS = 90.0


@dataclass(frozen=True)
class Case:
    """One kind of load.

    Attributes:
        label: What the table calls it.
        num_clients: Connections that each have one request under way.
        num_series: Series in every request.
    """

    label: str
    num_clients: int
    num_series: int


CASES = (Case("1 client, 1 series", 1, 1), Case("64 clients, 1 series", 64, 1), Case("2 clients, 100 series", 2, 100))


@dataclass(frozen=True)
class Contestant:
    """One server.

    Attributes:
        label: What the table calls it.
        command: `{port}` and `{directory}` are filled in.
        body: Which request it takes.
        path: Where it is posted.
        environment: Beside the common one.
        peer: Name of its environment below .peers/; None = this one.
    """

    label: str
    command: tuple[str, ...]
    body: str = "peers"
    path: str = "/predict"
    environment: dict[str, str] = field(default_factory=dict)
    peer: str | None = None

    @property
    def bin(self) -> Path:
        """Where its programs are."""
        return BIN if self.peer is None else PEERS / self.peer / "bin"


def _uvicorn(module: str) -> tuple[str, ...]:
    return ("uvicorn", module, "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning", "--no-access-log")


# The two limits are tuned; the others run as their users start them, with what their frameworks set.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
CONTESTANTS = {
    "bare": Contestant(
        "bare: uvicorn, orjson, forward", _uvicorn("server_bare:app"), environment={"MODE": "direct", **ONE_THREAD}
    ),
    "batcher": Contestant(
        "bare, with a draining batcher", _uvicorn("server_bare:app"), environment={"MODE": "batch", **ONE_THREAD}
    ),
    "gradcast": Contestant(
        "gradcast", ("python", "-m", "app"), "gradcast", "/forecast",
        {"GRADCAST_BUNDLE": "{directory}/bundle", "GRADCAST_PORT": "{port}", "GRADCAST_LOG_LEVEL": "warning"},
    ),
    "fastapi": Contestant("FastAPI as in a tutorial", _uvicorn("server_fastapi:app")),
    "mlflow": Contestant(
        "mlflow models serve",
        ("mlflow", "models", "serve", "-m", "{directory}/mlflow_model", "--env-manager", "local",
         "-h", "127.0.0.1", "-p", "{port}"),
        "mlflow", "/invocations",
    ),
    "litserve": Contestant("LitServe, batches of 64", ("python", "server_litserve.py", "{port}"), peer="litserve"),
    "bentoml": Contestant(
        "BentoML, adaptive batches",
        ("bentoml", "serve", "server_bentoml:BareService", "--host", "127.0.0.1", "--port", "{port}"),
        environment={"BENTOML_DO_NOT_TRACK": "True"}, peer="bentoml",
    ),
}  # fmt: skip


class Server:
    """A running contestant.

    Args:
        contestant: What to run.
        port: Where it listens.
        directory: Weights, requests, bundle.
    """

    def __init__(self, contestant: Contestant, port: int, directory: Path) -> None:
        self.contestant, self.port, self.directory = contestant, port, directory
        fill = {"port": port, "directory": directory}
        name, *arguments = (part.format(**fill) for part in contestant.command)
        environment = os.environ | {
            "PATH": f"{contestant.bin}:{os.environ['PATH']}", "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
            "MODEL_DIRECTORY": str(directory),
        } | {key: value.format(**fill) for key, value in contestant.environment.items()}  # fmt: skip
        self._log = (directory / f"{contestant.label.split(',')[0].replace(' ', '_')}-{port}.log").open("w+")
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [str(contestant.bin / name), *arguments], cwd=HERE, env=environment, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self.ready_seconds = self._wait_ready(begin)

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self.port}{self.contestant.path}"

    def body(self, num_series: int) -> Path:
        """The file with its request."""
        return self.directory / f"{self.contestant.body}-{num_series}.json"

    def memory_mib(self) -> float:
        """Proportional memory of the process and its children."""
        root = psutil.Process(self._process.pid)
        return float(sum(process.memory_full_info().pss for process in [root, *root.children(recursive=True)])) / 2**20

    def close(self) -> None:
        """End it and its children."""
        children: list[psutil.Process] = []
        if self._process.poll() is None:
            children = psutil.Process(self._process.pid).children(recursive=True)
            self._process.terminate()
        _, alive = psutil.wait_procs(children, timeout=4)
        for process in [*alive, self._process]:
            process.kill()
        self._process.wait()
        self._log.close()

    def _wait_ready(self, begin: float) -> float:
        body = self.body(1).read_bytes()
        while time.perf_counter() - begin < READY_SECONDS and self._process.poll() is None:
            request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})  # noqa: S310  loopback
            try:
                with urllib.request.urlopen(request, timeout=10):  # noqa: S310  loopback
                    return time.perf_counter() - begin
            except OSError:
                time.sleep(0.02)
        self._log.seek(0)
        report = self._log.read()[-2000:]
        self.close()
        raise SystemExit(f"{self.contestant.label} does not answer:\n{report}")


def drive(server: Server, case: Case, seconds: int) -> dict[str, Any]:
    """Let wrk post for some seconds."""
    command = [
        "wrk", "-t1", f"-c{case.num_clients}", f"-d{seconds}s", "--timeout", "10s", "-s", str(HERE / "post.lua"), server.url,
    ]  # fmt: skip
    environment = os.environ | {"BODY": str(server.body(case.num_series))}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    entry = json.loads(next(line for line in output.splitlines() if line.startswith("RESULT "))[7:])
    if entry["refused"] or entry["broken"]:
        raise SystemExit(f"{server.contestant.label} refused or broke requests: {entry}")
    rate = entry["requests"] / entry["seconds"]
    return {**entry, "requests_per_second": rate, "series_per_second": rate * case.num_series}


def measure(servers: dict[str, Server], rounds: int, seconds: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Every case, every round, every server in turn."""
    results: dict[str, dict[str, list[dict[str, Any]]]] = {name: {case.label: [] for case in CASES} for name in servers}
    names = list(servers)
    for name in names:
        drive(servers[name], CASES[1], 1)  # warm up
    for number in range(rounds):
        turn = number % len(names)
        for case in CASES:
            for name in names[turn:] + names[:turn]:
                entry = drive(servers[name], case, seconds)
                results[name][case.label].append(entry)
                text = f"{entry['series_per_second']:>8.0f} series/s  p50 {entry['p50'] / 1000:.2f} ms"
                print(f"round {number + 1}  {case.label:<22}{name:<10}{text}", file=sys.stderr, flush=True)
    return results


def median_ratio(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], key: str) -> float:
    """Median over rounds of ours / theirs."""
    return statistics.median(mine[key] / other[key] for mine, other in zip(ours, theirs, strict=True))


def format_table(results: dict[str, dict[str, list[dict[str, Any]]]], servers: dict[str, dict[str, float]]) -> str:
    """One row per server."""
    head = "".join(f" | {case.label}: series/s | p50 / p99 ms" for case in CASES)
    lines = [f"| | ready s | memory MiB{head} |", "|---" * (3 + 2 * len(CASES)) + "|"]
    for name, cases in results.items():
        cells = [CONTESTANTS[name].label, f"{servers[name]['ready_seconds']:.1f}", f"{servers[name]['memory_mib']:.0f}"]
        for case in CASES:
            entries = cases[case.label]
            rate, p50, p99 = (
                statistics.median(entry[key] for entry in entries) for key in ("series_per_second", "p50", "p99")
            )
            cells += [f"{rate:.0f}", f"{p50 / 1000:.2f} / {p99 / 1000:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# Label, case, rival, key, factor, whether ours / theirs must be at most that.
TARGETS = (
    ("1 client: p50 of bare", 0, "bare", "p50", 1.6, True),
    ("1 client: p50 of mlflow", 0, "mlflow", "p50", 0.5, True),
    ("64 clients: rate of mlflow", 1, "mlflow", "series_per_second", 10.0, False),
    ("64 clients: rate of FastAPI", 1, "fastapi", "series_per_second", 7.0, False),
    ("64 clients: rate of the batcher", 1, "batcher", "series_per_second", 0.45, False),
    ("100 series: rate of bare", 2, "bare", "series_per_second", 0.7, False),
)


def format_targets(results: dict[str, dict[str, list[dict[str, Any]]]], servers: dict[str, dict[str, float]]) -> str:
    """What was aimed at and what came out."""
    lines = ["| gradcast | aim | measured |", "|---|---|---|"]
    ours = results["gradcast"]
    for label, index, rival, key, factor, at_most in TARGETS:
        if rival in results:
            case = CASES[index].label
            ratio = median_ratio(ours[case], results[rival][case], key)
            lines.append(f"| {label} | {'<=' if at_most else '>='} {factor:g}x | {ratio:.2f}x |")
    tail = statistics.median(entry["p99"] / entry["p50"] for entry in ours[CASES[1].label])
    lines.append(f"| 64 clients: p99 of its p50 | <= 3x | {tail:.2f}x |")
    lines.append(f"| ready | <= 2.5 s | {servers['gradcast']['ready_seconds']:.2f} s |")
    lines.append(f"| memory after the load | <= 400 MiB | {servers['gradcast']['memory_mib']:.0f} MiB |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of every load; wrk takes whole ones")
    parser.add_argument("--only", default="", help=f"comma-separated from {', '.join(CONTESTANTS)}")
    parser.add_argument("--overload", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--name", default="serving", help="name of the result files")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.only.split(",") if name] or list(CONTESTANTS)
    missing = [name for name in chosen if not CONTESTANTS[name].bin.exists()]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        write_all(directory)
        servers: dict[str, Server] = {}
        for index, name in enumerate(name for name in chosen if name not in missing):
            servers[name] = Server(CONTESTANTS[name], FIRST_PORT + index, directory)
            stack.callback(servers[name].close)
        results = measure(servers, arguments.rounds, arguments.seconds)
        facts = {
            name: {"ready_seconds": server.ready_seconds, "memory_mib": server.memory_mib()}
            for name, server in servers.items()
        }
        overload = None
        if arguments.overload and "gradcast" in servers:
            overload = measure_overload(servers["gradcast"].url, servers["gradcast"].body(100), servers["gradcast"].memory_mib)
    table = format_table(results, facts)
    if "gradcast" in results:
        table += "\n" + format_targets(results, facts)
    if overload is not None:
        table += "\n" + overload.format()
    if missing:
        table += f"\nNot installed, left out: {', '.join(missing)}.\n"
    document = {
        "machine": machine(), "job": vars(arguments), "servers": facts, "results": results,
        "overload": overload.document() if overload is not None else None,
    }  # fmt: skip
    write_results(arguments.name, table, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
