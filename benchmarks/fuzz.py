"""Hostile input by the million: counts inputs, crashes, hangs and growth of memory per target.

    python benchmarks/fuzz.py --inputs 100000
    python benchmarks/fuzz.py --seconds 600 --targets routes,config

Inputs grow from tests/fuzz/corpus by small changes; what is answered in a new way joins it. A crashing input is written to
`fuzz-failures/` and fails the command.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reporting import machine, write_results  # noqa: E402  the path above comes first

from tests.fuzz.fuzzer import Count, fuzz, write_corpus  # noqa: E402  the same
from tests.fuzz.mutations import read_corpus, seeds  # noqa: E402  the same
from tests.fuzz.targets import BundleTarget, RoutesTarget, Target, build_targets  # noqa: E402  the same

CORPUS, FAILURES = ROOT / "tests" / "fuzz" / "corpus", Path("fuzz-failures")
NAMES = ("reader", "config", "bundle", "routes")
# A committed input stays readable in a review.
MAX_CORPUS_BYTES, MAX_CORPUS_FILES = 4096, 60


def fuzz_target(name: str, target: Target, num_inputs: int, seconds: float, seed: int) -> Count:
    """One target for so many inputs, or so long."""
    start = [*seeds(name), *(target.seeds() if isinstance(target, BundleTarget) else []), *read_corpus(CORPUS / name)]
    deadline = time.monotonic() + seconds
    count = fuzz(target, start, num_inputs, seed, lambda: time.monotonic() > deadline)
    if isinstance(target, RoutesTarget):
        target.close()
    write_corpus(FAILURES / name, [data for _, data in count.crashes] + [data for _, data in count.hangs])
    room = MAX_CORPUS_FILES - len(read_corpus(CORPUS / name))
    write_corpus(CORPUS / name, [data for data in count.kept if len(data) <= MAX_CORPUS_BYTES][: max(0, room)])
    for message, _ in count.crashes[:5]:
        print(f"{name}: {message}", file=sys.stderr)
    return count


def main() -> int:
    """Fuzz, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="inputs in all, at most")
    parser.add_argument("--seconds", type=float, default=600.0, help="time in all, at most")
    parser.add_argument("--targets", default=",".join(NAMES), help="names separated by commas")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the changes")
    options = parser.parse_args()
    names = options.targets.split(",")
    rows, num_bad = [], 0
    with tempfile.TemporaryDirectory() as folder:
        targets = build_targets(Path(folder))
        for name in names:
            share, began = options.seconds / len(names), time.monotonic()
            count = fuzz_target(name, targets[name], options.inputs // len(names), share, options.seed)
            num_bad += len(count.crashes) + len(count.hangs)
            growth = None if count.growth_bytes is None else round(count.growth_bytes / 2**20, 1)
            row = {
                "target": name, "inputs": count.num_inputs, "answers": len(count.answers), "crashes": len(count.crashes),
                "hangs": len(count.hangs), "slowest_seconds": round(count.slowest_seconds, 3),
                "growth_mib": growth, "seconds": round(time.monotonic() - began),
            }  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    head = "| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]) + "\n"
    table = head + "".join("| " + " | ".join(map(str, row.values())) + " |\n" for row in rows)
    write_results("fuzz", table, {"machine": machine(), "seed": options.seed, "rows": rows})
    return int(num_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
