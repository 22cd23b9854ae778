"""A million series forecast from parquet into parquet beside the bare forward pass; then killed in the middle and resumed.

Targets: windows per second of the whole command at least 0.8 of the bare forward pass over the same batches in as many
processes; memory flat; the output of a command that was killed in the middle and started again is that of the one that was
not, to the byte, complete and without doubles.

The bare forward pass has its batches in memory, already as tensors: no file is read, no window is gathered, nothing is
written. It is measured before, between and after, in the same number of processes with the same allocator and one thread each.
Processor seconds are given besides: on a machine that others use they say what the clock does not.

usage: benchmarks/bulk_forecasts.py [--series 1000000] [--rows 168] [--context-length 168] [--workers 2] [--name bulk_forecasts]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from reporting import machine, write_results
from waves import write_waves

ROOT = Path(__file__).resolve().parents[1]
TARGET_SHARE, FLAT_GROWTH = 0.8, 1.1
HORIZON, SERIES_PER_FILE, BARE_SECONDS, NUM_SLICES = 24, 50_000, 20.0, 10
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def write_bundle(folder: Path, context_length: int) -> None:
    """The network that `gradcast train` takes by default, untrained: speed does not depend on the weights."""
    import torch

    from models.bundle import BundleManifest, save_bundle
    from models.columns import Columns
    from models.config import LSTMConfig
    from models.registry import build_forecaster
    from training.data.calendar_features import choose_calendar
    from training.data.steps import parse_frequency

    torch.manual_seed(0)
    columns = Columns(calendar=choose_calendar("auto", parse_frequency("h"), context_length))
    network = LSTMConfig(
        context_length=context_length, horizon=HORIZON,
        num_past_covariates=len(columns.past_features), num_future_covariates=len(columns.future_features),
    )  # fmt: skip
    manifest = BundleManifest(network=network, columns=columns, freq="h", season_length=24)
    save_bundle(folder, build_forecaster(network), manifest)


def measure_bare(bundle_path: Path, data: Path) -> None:
    """One process of the bare forward pass: batches from the first file, again and again."""
    import torch

    from models.bundle import load_bundle
    from training.allocator import keep_freed_memory
    from training.config import DataConfig
    from training.data.parquet_folder import Piece, open_table
    from training.forecasting import build_request_panel, last_windows

    keep_freed_memory()
    torch.set_num_threads(1)
    bundle = load_bundle(bundle_path)
    table = open_table(data, DataConfig())
    panel = build_request_panel(bundle.manifest, table.read([Piece(0, 0, min(table.files[0].num_rows, 2_000_000))]))
    batches = list(last_windows(bundle, panel))
    print("READY", flush=True)
    sys.stdin.readline()
    count, began = 0, time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - began < BARE_SECONDS:
            for inputs in batches:
                bundle.forecaster(inputs)
                count += len(inputs.context)
                if time.perf_counter() - began >= BARE_SECONDS:
                    break
    print(json.dumps({"windows_per_second": count / (time.perf_counter() - began), "count": count}))


def run_bare(bundle: Path, data: Path, workers: int) -> dict[str, float]:
    """The bare forward pass in all processes at once: windows per second of all, and processor seconds per window."""
    command = [sys.executable, __file__, "--measure-bare", str(bundle), "--data", str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) for _ in range(workers)]
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline() != "READY\n":
            raise SystemExit("the bare forward pass failed")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_before = sum(processor_seconds(process.pid) for process in processes)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate()[0]) for process in processes]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - used_before
    return {
        "windows_per_second": sum(answer["windows_per_second"] for answer in answers),
        "windows_per_processor_second": sum(answer["count"] for answer in answers) / used,
    }


def processor_seconds(pid: int) -> float:
    """User and system time of a living process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class MemoryWatch:
    """Resident bytes of a process and its children, twice a second, and their processor time up to the last look."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.samples: list[int] = []
        self.used: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            resident = 0
            for pid in [self.pid, *children(self.pid)]:
                try:
                    resident += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
                    self.used[pid] = processor_seconds(pid)
                except (OSError, IndexError):
                    continue
            self.samples.append(resident)

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    try:
        return [int(text) for path in Path(f"/proc/{pid}/task").iterdir() for text in (path / "children").read_text().split()]
    except OSError:
        return []


def run_bulk(bundle: Path, data: Path, output: Path, workers: int, kill_at: int | None) -> dict[str, Any]:
    """The command, killed outright when so many parts are there, or to its end."""
    command = [sys.executable, "-P", "-m", "training", "forecast", "--bundle", str(bundle), "--data", str(data),
               "--output", str(output), "--workers", str(workers)]  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=output.parent, env=os.environ | {"PYTHONPATH": str(ROOT)})
    watch = MemoryWatch(process.pid)
    while process.poll() is None:
        time.sleep(0.05)
        if kill_at is not None and sum(1 for _ in output.glob("part-*.parquet")) >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
    seconds = time.perf_counter() - began
    watch.stop()
    if kill_at is None and process.returncode:
        raise SystemExit("the bulk forecast failed")
    return {"seconds": seconds, "processor_seconds": sum(watch.used.values()), "resident_bytes": watch.samples}


def count_output(output: Path) -> dict[str, int]:
    """Rows, series and doubled rows of the output, part by part."""
    import numpy as np
    import pyarrow.parquet as pq

    seen: list[Any] = []
    for path in sorted(output.glob("part-*.parquet")):
        table = pq.read_table(path, columns=["unique_id", "ds"]).to_pandas()
        series = table["unique_id"].str.slice(7).astype(np.int64).to_numpy()
        hours = table["ds"].to_numpy().astype("M8[h]").astype(np.int64)
        seen.append(series * 10_000_000 + hours)
    keys = np.concatenate(seen)
    distinct = np.unique(keys)
    return {"rows": len(keys), "doubled": len(keys) - len(distinct), "series": len(np.unique(distinct // 10_000_000))}


def part_hashes(output: Path) -> dict[str, str]:
    """What the manifest says of every part; every part is read and compared with it."""
    parts = json.loads((output / "_manifest.json").read_text())["parts"]
    for part in parts:
        with (output / part["name"]).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != part["sha256"]:
                raise SystemExit(f"{part['name']} is not what the manifest says")
    return {part["name"]: part["sha256"] for part in parts}


def slices(samples: list[int]) -> list[float]:
    """Median of each tenth of the samples, in MiB."""
    edges = [len(samples) * index // NUM_SLICES for index in range(NUM_SLICES + 1)]
    return [statistics.median(samples[a:b]) / 2**20 for a, b in pairwise(edges) if b > a]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=168)
    parser.add_argument("--context-length", type=int, default=168)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--name", default="bulk_forecasts", help="name of the result files")
    parser.add_argument("--measure-bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if arguments.measure_bare:
        measure_bare(arguments.measure_bare, arguments.data)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="gradcast-bulk-"))
    try:
        return compare(folder, arguments)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, arguments: argparse.Namespace) -> int:
    """Both contestants in turn, and what the output holds."""
    data, bundle, output, workers = folder / "in", folder / "bundle", folder / "out", arguments.workers
    write_waves(data, arguments.series, arguments.rows, SERIES_PER_FILE)
    write_bundle(bundle, arguments.context_length)
    bare = [run_bare(bundle, data, workers)]
    whole = run_bulk(bundle, data, output, workers, kill_at=None)
    bare.append(run_bare(bundle, data, workers))
    expected = part_hashes(output)
    counted = count_output(output)
    output_bytes = sum(path.stat().st_size for path in output.glob("*.parquet"))
    shutil.rmtree(output)
    killed = run_bulk(bundle, data, output, workers, kill_at=len(expected) // 2)
    kept = sum(1 for _ in output.glob("part-*.parquet"))
    bare.append(run_bare(bundle, data, workers))
    resumed = run_bulk(bundle, data, output, workers, kill_at=None)
    is_same = part_hashes(output) == expected and count_output(output) == counted

    rate, bare_rate = arguments.series / whole["seconds"], statistics.mean(entry["windows_per_second"] for entry in bare)
    efficiency = arguments.series / whole["processor_seconds"]
    bare_efficiency = statistics.mean(entry["windows_per_processor_second"] for entry in bare)
    resident = slices(whole["resident_bytes"])
    is_flat = max(resident[2:]) <= FLAT_GROWTH * statistics.median(resident[2:])
    is_complete = counted == {"rows": arguments.series * HORIZON, "doubled": 0, "series": arguments.series}
    mebibytes = sum(path.stat().st_size for path in data.glob("*.parquet")) / 2**20
    said = "the same bytes in every part" if is_same else "another output"
    each = ", ".join(f"{entry['windows_per_second']:,.0f}" for entry in bare)
    table = f"""{arguments.series:,} series x {arguments.rows} rows ({mebibytes:,.0f} MiB of parquet) to {HORIZON} steps each
({output_bytes / 2**20:,.0f} MiB), context {arguments.context_length}, one LSTM layer of 64, {workers} processes

| | windows/s | windows per processor second |
|---|---|---|
| bare forward pass, batches in memory | {bare_rate:,.0f} ({each}) | {bare_efficiency:,.0f} |
| gradcast forecast, start and planning included | {rate:,.0f} | {efficiency:,.0f} |
| share (target {TARGET_SHARE}) | {rate / bare_rate:.2f} | {efficiency / bare_efficiency:.2f} |

{whole["seconds"]:.0f} s for {counted["rows"]:,} rows of {counted["series"]:,} series in {len(expected)} parts,
{counted["doubled"]} doubled.
Killed after {killed["seconds"]:.0f} s with {kept} parts there, and started again for {resumed["seconds"]:.0f} s: {said}.

Resident memory of all processes, median of each tenth of the time, MiB; flat: none after the second above
{FLAT_GROWTH} of their median.

| {" | ".join(str(index + 1) for index in range(NUM_SLICES))} |
|{"---|" * NUM_SLICES}
| {" | ".join(f"{value:,.0f}" for value in resident)} |
"""
    runs = {"whole": whole, "killed": killed, "resumed": resumed}
    document = {"machine": machine(), "bare": bare, "output": counted, "kept_parts": kept, **runs}
    write_results(arguments.name, table, document)
    return int(not (rate >= TARGET_SHARE * bare_rate and is_flat and is_complete and is_same))


if __name__ == "__main__":
    sys.exit(main())
