"""What faults cost: every fault test, again and again at other random moments, summed up in docs/reliability.md.

    python benchmarks/reliability.py --rounds 5
    python benchmarks/reliability.py --rounds 2 --first 6 --append      go on counting where the last run ended

A test in tests/faults/ (and the two that kill a whole server) writes down what was lost, doubled, and how long the way back
took; this script only repeats and counts. A test that fails is counted too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from reporting import RESULTS, machine, write_results

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
TESTS = (
    "tests/faults",
    "tests/e2e/test_jobs_survive_kills.py",
    "tests/integration/test_tracking_server.py::test_outage_in_mid_run_loses_and_doubles_nothing",
    "tests/integration/test_tracking_server.py::test_killed_training_is_completed_by_its_sender",
)
BEGIN, END = "<!-- table: benchmarks/reliability.py -->", "<!-- end of table -->"


def run_round(number: int, ledger: Path, num_workers: int, tests: tuple[str, ...]) -> tuple[int, int]:
    """One pass over all fault tests; returns tests passed and tests failed."""
    environment = {**os.environ, "GRADCAST_FAULT_LEDGER": str(ledger), "GRADCAST_FAULT_SEED": str(number), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(num_workers), "-p", "no:cacheprovider", *tests]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    last = ended.stdout.strip().splitlines()[-1] if ended.stdout.strip() else ended.stderr
    print(f"round {number}: {last}", flush=True)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error|errors)", last)}
    num_failed = sum(count for word, count in counts.items() if word != "passed")
    if num_failed or ended.returncode not in (0, 1):
        print(ended.stdout[-6000:], file=sys.stderr)
    return counts.get("passed", 0), num_failed + int(not counts)


def summarize(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per fault, in alphabetical order."""
    trials: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial in records:
        trials[trial["fault"]].append(trial)
    return [
        {
            "fault": fault,
            "times": len(rows),
            "lost": sum(row["lost"] for row in rows),
            "doubled": sum(row["doubled"] for row in rows),
            "seconds_median": round(statistics.median(row["seconds"] for row in rows), 2),
            "seconds_worst": round(max(row["seconds"] for row in rows), 2),
        }
        for fault, rows in sorted(trials.items())
    ]


def format_table(rows: list[dict[str, Any]]) -> str:
    """The table in markdown."""
    head = "| fault | times tried | lost | doubled | recovered in seconds: median | worst |\n|---|--:|--:|--:|--:|--:|\n"
    columns = ("fault", "times", "lost", "doubled", "seconds_median", "seconds_worst")
    body = ["| " + " | ".join(str(row[key]) for key in columns) + " |" for row in rows]
    total = [sum(row[key] for row in rows) for key in ("times", "lost", "doubled")]
    return head + "\n".join(body) + f"\n| all | {total[0]} | {total[1]} | {total[2]} | | |\n"


def write_page(table: str, described: dict[str, Any], num_rounds: int, failed: int) -> None:
    """Put the table into the guide, between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    hardware = f"{described['num_cores']} cores of {described['processor']}"
    caption = f"{described['date']}, {num_rounds} rounds, {failed} failed tests, {hardware}, Python {described['python']}."
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n{caption}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Repeat, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="passes over all fault tests, each at other random moments")
    parser.add_argument("--first", type=int, default=1, help="seed of the first round")
    parser.add_argument("--append", action="store_true", help="add to the trials in benchmarks/results/reliability.json")
    parser.add_argument("--workers", type=int, default=2, help="test processes at once")
    options = parser.parse_args()
    before = json.loads((RESULTS / "reliability.json").read_text(encoding="utf-8")) if options.append else {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.jsonl"
        ledger.touch()
        passed = failed = 0
        for count, number in enumerate(range(options.first, options.first + options.rounds), start=1):
            outcome = run_round(number, ledger, options.workers, TESTS)
            passed, failed = passed + outcome[0], failed + outcome[1]
            trials = before.get("trials", []) + [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
            before_this = {key: before.get(key, 0) for key in ("rounds", "seconds", "tests_passed", "tests_failed")}
            write_round(trials, before_this, count, round(time.monotonic() - started), passed, failed)
    return int(failed > 0)


def write_round(
    trials: list[dict[str, Any]], before: dict[str, int], rounds: int, seconds: int, passed: int, failed: int
) -> None:
    """Write what is known after a round: a run that is cut short has its table too."""
    described, rows = machine(), summarize(trials)
    document = {
        "machine": described, "rounds": before["rounds"] + rounds, "seconds": before["seconds"] + seconds,
        "tests_passed": before["tests_passed"] + passed, "tests_failed": before["tests_failed"] + failed, "rows": rows,
        "trials": trials,
    }  # fmt: skip
    table = format_table(rows)
    write_results("reliability", table, document)
    write_page(table, described, document["rounds"], document["tests_failed"])


if __name__ == "__main__":
    sys.exit(main())
