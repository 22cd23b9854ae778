"""A long run of mixed load on a whole site: trainings, forecasts, promotions, kills; what it takes must stay flat.

    python benchmarks/long_run.py                  an hour
    python benchmarks/long_run.py --minutes 10

A tracking server, the service and its worker run as their users run them. Forecasts come all the time at a fixed rate, a
training job whenever the one before has ended, a promotion now and then. In the first third everything is killed (-9) at
random moments, the service and the tracking server included; afterwards only workers and trainings are, so that the memory
measured over the rest is that of one process. Loads are bounded in rate and time, and only processes that were started here
are killed.

Written are memory, file descriptors and threads of the long-lived processes over the last two thirds, the disk by folder,
and what the clients saw. The exit code is 1 if something grew, or was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from reporting import machine, write_results

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "examples" / "data" / "us_gasoline_weekly.csv"
MODEL = "fuel"
CONFIG = {
    "model": {"horizon": 13, "context_length": 26, "hidden_size": 8, "initialization": "torch"},
    "fit": {"max_steps": 150, "val_check_steps": 25, "patience": None},
    "tracking": {"model_name": MODEL},
}
# Flat: what is held at the end against what was held after the first third.
MAX_MEMORY_GROWTH, MAX_COUNT_GROWTH = 0.10, 5
SAMPLE_SECONDS, KILL_SECONDS, PROMOTE_SECONDS, REST_SECONDS, JOB_PATIENCE_SECONDS = 5.0, 45.0, 20.0, 20.0, 900.0
KILLED_EARLY, KILLED_LATE = ("service", "tracking server", "worker", "training"), ("worker", "training")


@dataclass
class Sample:
    """What one process, with its children, holds at one moment."""

    at: float
    process: str
    memory_mib: float
    descriptors: int
    threads: int


@dataclass
class Account:
    """What happened.

    Attributes:
        forecasts: Answers to forecasts by status; 0 = no connection.
        disturbed: Of those that failed, how many while a killed service was coming back.
        jobs: Jobs by the state they ended in.
        kills: By what was killed.
        promotions: Answers to promotions by status.
        samples: Of the processes.
        disk: Bytes by folder, at every sample.
        problems: What should not have happened, in words.
    """

    forecasts: Counter[int] = field(default_factory=Counter)
    disturbed: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    promotions: Counter[int] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    disk: list[dict[str, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Site:
    """Service, worker and tracking server in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.tracking_port = folder, free_port(), free_port()
        self.url, self.tracking = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.tracking_port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.is_coming_back = threading.Event()

    def start(self, name: str) -> None:
        """Start `service` or `tracking server`, and wait until it answers."""
        environment = os.environ | {
            "GRADCAST_PORT": str(self.port), "GRADCAST_JOBS_DIRECTORY": str(self.folder / "jobs"), "OMP_NUM_THREADS": "1",
            "GRADCAST_TRACKING_URI": self.tracking, "GRADCAST_CACHE_DIRECTORY": str(self.folder / "cache"),
            "XDG_CACHE_HOME": str(self.folder / "cache"), "GRADCAST_POLL_SECONDS": "2", "GRADCAST_OPEN": "always",
            "GRADCAST_KEYS_DIRECTORY": str(self.folder / "keys"), "GRADCAST_LOG_LEVEL": "warning",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        mlflow = [
            "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.tracking_port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        command = ["app"] if name == "service" else mlflow
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", *command], env=environment, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        wait_for(f"{self.url}/livez" if name == "service" else f"{self.tracking}/health")

    def jobs_processes(self) -> dict[str, psutil.Process]:
        """The worker and its training, as far as they live: known by their command and by the folder they work in."""
        found = {}
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or []
            if process.info["cwd"] == str(self.folder):
                if "app.jobs" in words:
                    found["worker"] = process
                elif "--json" in words:
                    found["training"] = process
        return found

    def kill(self, name: str) -> bool:
        """Kill -9; servers are started again. Returns whether there was anything to kill."""
        if name in self.processes:
            self.is_coming_back.set()
            os.killpg(self.processes[name].pid, signal.SIGKILL)
            self.processes[name].wait()
            self.start(name)
            time.sleep(3.0)
            self.is_coming_back.clear()
            return True
        victim = self.jobs_processes().get(name)
        if victim is None:
            return False
        victim.kill()
        return True

    def stop(self) -> None:
        """Leave no process."""
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
        for process in self.jobs_processes().values():
            process.kill()

    def disk(self) -> dict[str, int]:
        """Bytes by folder; the database of runs is one."""
        sizes: dict[str, int] = defaultdict(int)
        for path in self.folder.rglob("*"):
            try:
                name = path.relative_to(self.folder).parts[0]
                sizes["mlflow.db" if name.startswith("mlflow.db") else name] += path.lstat().st_blocks * 512
            except OSError:
                continue  # gone meanwhile
        return dict(sizes)


def wait_for(url: str, seconds: float = 120.0) -> None:
    """Until it answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"{url} did not answer in {seconds:g} s")


class Load:
    """Everything that happens at once, each in a thread of its own until the end."""

    def __init__(self, site: Site, seconds: float, rate: float, seed: int) -> None:
        self.site, self.rate, self.account = site, rate, Account()
        self.begin = time.monotonic()
        self.end, self.end_of_early = self.begin + seconds, self.begin + seconds / 3
        self._dice = random.Random(seed)  # noqa: S311  a test's dice
        self._dataset = ""

    def run(self) -> None:
        """All of it."""
        self._dataset = self._upload()
        self._train()
        self._promote(1)  # there is a champion before anybody asks for a forecast
        threads = [threading.Thread(target=part) for part in (self._forecasts, self._trainings, self._promotions, self._samples)]
        for thread in threads:
            thread.start()
        while self._is_on():
            self._pause(KILL_SECONDS * self._dice.uniform(0.5, 1.5))
            if self._is_on():
                name = self._dice.choice(KILLED_EARLY if time.monotonic() < self.end_of_early else KILLED_LATE)
                self.account.kills[name] += self.site.kill(name)
        for thread in threads:
            thread.join()
        self._check_versions()

    def _is_on(self) -> bool:
        return time.monotonic() < self.end

    def _pause(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self.end - time.monotonic())))

    def _upload(self) -> str:
        answer = httpx.post(f"{self.site.url}/datasets", content=DATA.read_bytes(), params={"name": DATA.name}, timeout=120)
        return str(answer.raise_for_status().json()["id"])

    def _forecasts(self) -> None:
        values = [float(line.split(",")[-1]) for line in DATA.read_text().splitlines()[1:]]
        with httpx.Client(base_url=self.site.url, timeout=60) as client:
            while self._is_on():
                began = time.monotonic()
                first = self._dice.randrange(len(values) - 120)
                series = {"unique_id": "x", "start": "2020-01-06", "freq": "W-MON", "y": values[first : first + 104]}
                self._forecast(client, {"model": MODEL, "series": [series] * self._dice.choice((1, 1, 1, 20))})
                time.sleep(max(0.0, 1 / self.rate - (time.monotonic() - began)))

    def _forecast(self, client: httpx.Client, body: dict[str, Any]) -> None:
        try:
            status = client.post("/forecast", json=body).status_code
        except httpx.TransportError:
            status = 0
        self.account.forecasts[status] += 1
        if status != 200 and self.site.is_coming_back.is_set():
            self.account.disturbed += 1

    def _trainings(self) -> None:
        while self._is_on():
            self._pause(REST_SECONDS)
            self._train()

    def _train(self) -> None:
        """One job to its end, whatever is killed meanwhile; asking again where nothing answered."""
        job = self._asked(lambda: httpx.post(
            f"{self.site.url}/jobs", timeout=60, json={"dataset_id": self._dataset, "config": CONFIG, "promote": True}
        ))  # fmt: skip
        if job is None:
            return
        end = time.monotonic() + JOB_PATIENCE_SECONDS
        while time.monotonic() < end:
            body = self._asked(lambda: httpx.get(f"{self.site.url}/jobs/{job['id']}", timeout=60))
            if body and body["state"] in ("succeeded", "failed", "cancelled"):
                self.account.jobs[body["state"]] += 1
                if body["state"] != "succeeded":
                    self.account.problems.append(f"a job {body['state']}: {body['code']}, after {body['num_attempts']} attempts")
                return
            time.sleep(1.0)
        self.account.problems.append(f"a job did not end in {JOB_PATIENCE_SECONDS:g} s")

    def _asked(self, ask: Any) -> dict[str, Any] | None:
        """The answer's content; None if nothing answered in two minutes."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                return dict(ask().raise_for_status().json())
            except httpx.HTTPError:
                time.sleep(1.0)
        self.account.problems.append("the service did not answer for two minutes")
        return None

    def _promotions(self) -> None:
        while self._is_on():
            self._pause(PROMOTE_SECONDS)
            try:
                listed = httpx.get(f"{self.site.url}/models/{MODEL}", timeout=30).json()["versions"]
                self._promote(self._dice.choice([entry["version"] for entry in listed]))
            except (httpx.HTTPError, KeyError):
                self.account.promotions[0] += 1

    def _promote(self, version: int) -> None:
        body = {"version": version, "override": "long run"}
        answer = httpx.post(f"{self.site.url}/models/{MODEL}/promote", json=body, timeout=60)
        self.account.promotions[answer.status_code] += 1

    def _samples(self) -> None:
        while self._is_on():
            self._pause(SAMPLE_SECONDS)
            for name, process in list(self.site.processes.items()):
                try:
                    self.account.samples.append(measure(time.monotonic() - self.begin, name, psutil.Process(process.pid)))
                except psutil.Error:
                    continue  # killed meanwhile
            self.account.disk.append(self.site.disk())

    def _check_versions(self) -> None:
        """Every job that succeeded has one version, and none has two."""
        found = httpx.get(f"{self.site.url}/models/{MODEL}", timeout=60).json()
        num_versions, num_jobs = len(found["versions"]), self.account.jobs["succeeded"]
        if num_versions != num_jobs:
            self.account.problems.append(f"{num_jobs} jobs succeeded, but {num_versions} versions are registered")
        unexplained = sum(self.account.forecasts.values()) - self.account.forecasts[200] - self.account.disturbed
        if unexplained:
            self.account.problems.append(f"{unexplained} forecasts failed while nothing was being restarted")


def measure(at: float, name: str, process: psutil.Process) -> Sample:
    """A process and its children, without the worker, which comes and goes with its jobs."""
    family = [process, *(child for child in process.children(recursive=True) if not is_of_a_job(child))]
    memory = sum(member.memory_info().rss for member in family) / 2**20
    return Sample(at, name, memory, sum(member.num_fds() for member in family), sum(member.num_threads() for member in family))


def is_of_a_job(process: psutil.Process) -> bool:
    """Whether it is the worker, or a training."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return True
    return "app.jobs" in words or "--json" in words


def flatness(load: Load) -> list[dict[str, Any]]:
    """Per process: medians of the first and of the last quarter of the time after the first third."""
    rows = []
    early, late = load.end_of_early - load.begin, load.end - load.begin
    for name in load.site.processes:
        kept = [sample for sample in load.account.samples if sample.process == name and sample.at > early + 30]
        quarter = (late - early) / 4
        first = [sample for sample in kept if sample.at < early + quarter]
        last = [sample for sample in kept if sample.at > late - quarter]
        if not first or not last:
            continue
        row: dict[str, Any] = {"process": name}
        for key in ("memory_mib", "descriptors", "threads"):
            row[key] = [statistics.median(getattr(sample, key) for sample in part) for part in (first, last)]
        row["is_flat"] = (
            row["memory_mib"][1] <= row["memory_mib"][0] * (1 + MAX_MEMORY_GROWTH)
            and row["descriptors"][1] <= row["descriptors"][0] + MAX_COUNT_GROWTH
            and row["threads"][1] <= row["threads"][0] + MAX_COUNT_GROWTH
        )
        rows.append(row)
    return rows


def disk_growth(load: Load) -> list[dict[str, Any]]:
    """Per folder: bytes after the first third and at the end, and the growth per job that ended meanwhile."""
    disk = load.account.disk
    first, last = disk[len(disk) // 3], disk[-1]
    num_jobs = max(1, round(sum(load.account.jobs.values()) * 2 / 3))
    names = sorted(set(first) | set(last))
    return [
        {"folder": name, "first": first.get(name, 0), "last": last.get(name, 0),
         "kib_per_job": round((last.get(name, 0) - first.get(name, 0)) / num_jobs / 1024)}
        for name in names
    ]  # fmt: skip


def format_tables(load: Load, minutes: float) -> str:
    """What happened, what was held, what was written."""
    account = load.account
    lines = ["| | |", "|---|---|", f"| minutes | {minutes:g} |"]
    lines += [f"| forecasts answered {status or 'nothing'} | {count} |" for status, count in sorted(account.forecasts.items())]
    lines += [f"| of those that failed, while something killed came back | {account.disturbed} |"]
    lines += [f"| jobs {state} | {count} |" for state, count in sorted(account.jobs.items())]
    lines += [f"| promotions answered {status or 'nothing'} | {count} |" for status, count in sorted(account.promotions.items())]
    lines += [f"| kill -9 of the {name} | {count} |" for name, count in sorted(account.kills.items())]
    lines += [f"| problem | {problem} |" for problem in account.problems or ["none"]]
    lines += ["", "| process | memory MiB: first, last quarter | descriptors | threads | flat |", "|---|---|---|---|---|"]
    for row in flatness(load):
        pairs = [" .. ".join(f"{value:.0f}" for value in row[key]) for key in ("memory_mib", "descriptors", "threads")]
        lines.append(f"| {row['process']} | {' | '.join(pairs)} | {'yes' if row['is_flat'] else 'no'} |")
    lines += ["", "| on disk | MiB after a third | MiB at the end | KiB per job |", "|---|--:|--:|--:|"]
    for row in disk_growth(load):
        lines.append(f"| {row['folder']} | {row['first'] / 2**20:.1f} | {row['last'] / 2**20:.1f} | {row['kib_per_job']} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Load, kill, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=20.0, help="forecast requests per second")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed and when")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        try:
            site.start("tracking server")
            site.start("service")
            load = Load(site, 60 * options.minutes, options.rate, options.seed)
            load.run()
        finally:
            site.stop()
    rows, disk = flatness(load), disk_growth(load)
    document = {
        "machine": machine(), "minutes": options.minutes, "rate": options.rate, "processes": rows, "disk": disk,
        "forecasts": dict(load.account.forecasts), "disturbed": load.account.disturbed, "jobs": dict(load.account.jobs),
        "kills": dict(load.account.kills), "problems": load.account.problems,
        "samples": [vars(sample) for sample in load.account.samples],
    }  # fmt: skip
    write_results("long_run", format_tables(load, options.minutes), document)
    return int(bool(load.account.problems) or not all(row["is_flat"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
