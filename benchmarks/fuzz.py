"""Hostile input by the million: counts inputs, crashes, hangs and growth of memory per target.

    python benchmarks/fuzz.py                                   a million inputs, or an hour
    python benchmarks/fuzz.py --seconds 600 --targets routes,config --processes 4

Everything runs in this process, without sockets and without a process per input. The targets take turns of some seconds, so that
each sees the memory that the others leave. Inputs grow from tests/fuzz/corpus by small changes; what is answered in a new way, or
reaches a line that nothing before it reached, joins the pool, and with --keep the corpus. A crashing input is written to
`fuzz-failures/` and fails the command. Results are written after every round: a run that is cut short has them too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reporting import machine, write_results  # noqa: E402  the path above comes first

from tests.fuzz.campaign import CORPUS, MAKERS, build_target, close_target  # noqa: E402  the same
from tests.fuzz.fuzzer import Fuzzer, resident_bytes, write_corpus  # noqa: E402  the same
from tests.fuzz.mutations import read_corpus  # noqa: E402  the same

FAILURES = Path("fuzz-failures")
# Of the time; what decides most gets most.
SHARES = {"routes": 0.5, "reader": 0.15, "bundle": 0.2, "config": 0.1, "packed": 0.03, "checkpoint": 0.02}
ROUND_SECONDS = 20.0
# A committed input stays readable in a review.
MAX_CORPUS_BYTES, MAX_CORPUS_FILES = 4096, 60


@dataclass
class Campaign:
    """One process's fuzzers and what they found.

    Attributes:
        fuzzers: By target.
        seconds: Spent per target.
        growth_bytes: Of resident memory while a target had its turns, the first turn not counted: there caches fill.
        memory_bytes: Resident memory after each round.
    """

    fuzzers: dict[str, Fuzzer]
    seconds: dict[str, float] = field(default_factory=dict)
    growth_bytes: dict[str, int] = field(default_factory=dict)
    memory_bytes: list[int] = field(default_factory=list)

    @property
    def num_inputs(self) -> int:
        """Of all targets."""
        return sum(fuzzer.count.num_inputs for fuzzer in self.fuzzers.values())

    def run_round(self, max_inputs: int) -> None:
        """One turn for each target."""
        is_first = not self.memory_bytes
        limit, num_before = max_inputs, self.num_inputs
        for name, fuzzer in self.fuzzers.items():
            began, before = time.monotonic(), resident_bytes()
            end = began + ROUND_SECONDS * SHARES[name]
            fuzzer.feed(limit - (self.num_inputs - num_before), lambda end=end: time.monotonic() > end)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
            growth = 0 if is_first else resident_bytes() - before
            self.growth_bytes[name] = self.growth_bytes.get(name, 0) + growth
        self.memory_bytes.append(resident_bytes())

    def rows(self) -> list[dict[str, Any]]:
        """The table, one row per target."""
        return [
            {
                "target": name, "inputs": fuzzer.count.num_inputs,
                "per second": round(fuzzer.count.num_inputs / self.seconds[name]),
                "kinds of answer": len(fuzzer.count.answers), "lines reached": fuzzer.count.num_lines,
                "crashes": len(fuzzer.count.crashes), "over 5 s": len(fuzzer.count.hangs),
                "slowest, s": round(fuzzer.count.slowest_seconds, 3),
                "memory growth, MiB": round(self.growth_bytes[name] / 2**20, 1),
            }
            for name, fuzzer in self.fuzzers.items()
        ]  # fmt: skip


def run_campaign(
    names: list[str], num_inputs: int, seconds: float, seed: int, is_keeping: bool, is_writing: bool
) -> dict[str, Any]:
    """Rounds until the inputs or the time are used up.

    Returns:
        Rows, and resident memory in MiB after each round.
    """
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        built = {name: build_target(name, Path(folder) / name) for name in names}
        campaign = Campaign({name: Fuzzer(target, start, seed) for name, (target, start) in built.items()})
        document: dict[str, Any] = {}
        while campaign.num_inputs < num_inputs and time.monotonic() < deadline:
            campaign.run_round(num_inputs - campaign.num_inputs)
            memory = [round(num_bytes / 2**20) for num_bytes in campaign.memory_bytes]
            document = {"rows": campaign.rows(), "memory_mib": memory, "seed": seed}
            if is_writing:
                write_document([document], is_quiet=True)
            print(f"{campaign.num_inputs} inputs, {memory[-1]} MiB", file=sys.stderr, flush=True)
        for target, _ in built.values():
            close_target(target)
        for name, fuzzer in campaign.fuzzers.items():
            keep_findings(name, fuzzer, is_keeping)
    return document


def keep_findings(name: str, fuzzer: Fuzzer, is_keeping: bool) -> None:
    """Write what crashed or hung; with `is_keeping` also what was new, as far as the corpus has room."""
    count = fuzzer.count
    if bad := [data for _, data in count.crashes] + [data for _, data in count.hangs]:
        write_corpus(FAILURES / name, bad)
    for message, _ in count.crashes[:5]:
        print(f"{name}: {message}", file=sys.stderr)
    if is_keeping:
        room = max(0, MAX_CORPUS_FILES - len(read_corpus(CORPUS / name)))
        write_corpus(CORPUS / name, [data for data in count.kept if len(data) <= MAX_CORPUS_BYTES][:room])


def merge_rows(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of several processes as one table: counts are added, the worst of the rest counts."""
    merged: dict[str, dict[str, Any]] = {}
    for row in (row for document in documents for row in document["rows"]):
        known = merged.setdefault(row["target"], dict.fromkeys(row, 0) | {"target": row["target"]})
        for key, value in row.items():
            if key in ("inputs", "per second", "crashes", "over 5 s"):
                known[key] += value
            elif key != "target":
                known[key] = max(known[key], value)
    return list(merged.values())


def write_document(documents: list[dict[str, Any]], is_quiet: bool = False) -> int:
    """Write the results; returns how many inputs crashed or hung."""
    rows = merge_rows(documents)
    head = "| " + " | ".join(rows[0]) + " |\n|---|" + "--:|" * (len(rows[0]) - 1) + "\n"
    table = head + "".join("| " + " | ".join(map(str, row.values())) + " |\n" for row in rows)
    num_inputs, num_bad = sum(row["inputs"] for row in rows), sum(row["crashes"] + row["over 5 s"] for row in rows)
    memory = [document["memory_mib"] for document in documents]
    ends = "; ".join(f"{slices[0]} MiB, {slices[len(slices) // 2]} MiB, {slices[-1]} MiB" for slices in memory)
    table += f"\n{num_inputs} inputs, {num_bad} of them bad. Resident memory after the first round, half of them, all: {ends}.\n"
    write_results("fuzz", table, {"machine": machine(), "inputs": num_inputs, "rows": rows, "processes": documents}, is_quiet)
    return num_bad


def main() -> int:
    """Fuzz, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs in all, at most")
    parser.add_argument("--seconds", type=float, default=3600.0, help="time in all, at most")
    parser.add_argument("--targets", default=",".join(MAKERS), help="names separated by commas")
    parser.add_argument("--processes", type=int, default=1, help="processes at once; each has targets and a seed of its own")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the changes")
    parser.add_argument("--keep", action="store_true", help="new inputs join tests/fuzz/corpus")
    options = parser.parse_args()
    names, num_inputs = options.targets.split(","), -(-options.inputs // options.processes)
    tasks = [
        (names, num_inputs, options.seconds, options.seed + number, options.keep, options.processes == 1)
        for number in range(options.processes)
    ]
    if len(tasks) == 1:
        documents = [run_campaign(*tasks[0])]
    else:
        with ProcessPoolExecutor(len(tasks), multiprocessing.get_context("spawn")) as pool:
            documents = list(pool.map(run_campaign, *zip(*tasks, strict=True)))
    return int(write_document(documents) > 0)


if __name__ == "__main__":
    sys.exit(main())
