"""Time of `gradcast --help`, as a user at a prompt waits for it.

usage: benchmarks/help_time.py [--rounds 20] [--limit 0.3]     exits with 1 above the limit
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from reporting import machine, write_results

COMMAND = [str(Path(sys.executable).parent / "gradcast"), "--help"]


def time_command() -> float:
    """Seconds of wall clock for one `gradcast --help`."""
    started = time.perf_counter()
    subprocess.run(COMMAND, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--limit", type=float, default=0.3, help="seconds")
    arguments = parser.parse_args()
    time_command()  # fills the bytecode and disk caches
    seconds = [time_command() for _ in range(arguments.rounds)]
    median = statistics.median(seconds)
    table = "| command | median s | slowest s | limit s |\n|---|---|---|---|\n"
    table += f"| `gradcast --help` | {median:.3f} | {max(seconds):.3f} | {arguments.limit} |\n"
    write_results("help_time", table, {"machine": machine(), "seconds": seconds, "median_seconds": median})
    return int(median > arguments.limit)


if __name__ == "__main__":
    sys.exit(main())
