"""Training speed of one job: a bare loop, gradcast with norms and tracking on, and four libraries, interleaved.

Targets: gradcast at least 0.95x the windows/s of the bare loop with the same network, and faster than every library.

usage: benchmarks/fit_speed.py [--rounds 5] [--threads 1] [--only bare,gradcast] [--hidden-size 64] [--num-layers 1]
Libraries whose environment is missing (benchmarks/setup_peers.sh makes them) are left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reporting import machine, write_results

HERE = Path(__file__).resolve().parent
PEERS = HERE / ".peers"
TARGET = 0.95


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        label: What the table calls it.
        worker: Script in fit_workers/, without `worker_` and `.py`.
        steps: Optimizer steps of one repetition at scale 1; slow ones do fewer.
        variant: Passed to the worker.
        peer: Name of its environment below .peers/; None = this one.
    """

    label: str
    worker: str
    steps: int
    variant: str = ""
    peer: str | None = None

    @property
    def interpreter(self) -> Path:
        """Python that runs the worker."""
        return Path(sys.executable) if self.peer is None else PEERS / self.peer / "bin" / "python"


CONTESTANTS = {
    "bare": Contestant("bare loop, same network", "bare", 600),
    "bare-malloc": Contestant("bare loop, same network, allocator tuned", "bare", 600, variant="malloc"),
    "bare-linear": Contestant("bare loop, LSTM and one linear layer", "bare", 600, variant="linear"),
    "gradcast": Contestant("gradcast, norms and tracking on", "gradcast", 600),
    "gradcast-defaults": Contestant(
        "gradcast, with its scaler, quantile head and calendar", "gradcast", 600, variant="defaults"
    ),
    "darts": Contestant("darts BlockRNNModel", "darts", 400, peer="darts"),
    "neuralforecast": Contestant("neuralforecast LSTM", "neuralforecast", 150, peer="neuralforecast"),
    "neuralforecast-2": Contestant(
        "neuralforecast LSTM, 2 series per batch", "neuralforecast", 300, variant="2", peer="neuralforecast"
    ),
    "gluonts": Contestant("gluonts DeepAR", "gluonts", 250, peer="gluonts"),
    "pytorch-forecasting": Contestant(
        "pytorch-forecasting RecurrentNetwork", "pytorch_forecasting", 250, peer="pytorch-forecasting"
    ),
}


def run(contestant: Contestant, arguments: argparse.Namespace) -> dict[str, Any]:
    """One repetition in a process of its own."""
    steps = max(arguments.warm_up + 30, round(contestant.steps * arguments.scale))
    command = [
        str(contestant.interpreter), str(HERE / "fit_workers" / f"worker_{contestant.worker}.py"),
        f"--variant={contestant.variant}", f"--steps={steps}", f"--warm-up={arguments.warm_up}",
        f"--threads={arguments.threads}",
        f"--hidden-size={arguments.hidden_size}", f"--num-layers={arguments.num_layers}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "MKL_NUM_THREADS": str(arguments.threads)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, env=environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if result.returncode or not lines:
        raise SystemExit(f"{contestant.label} failed:\n{result.stderr[-3000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def peer_versions() -> dict[str, dict[str, str]]:
    """Version of each library and of what decides its speed, from its own environment."""
    wanted = (
        "neuralforecast",
        "darts",
        "gluonts",
        "pytorch-forecasting",
        "torch",
        "lightning",
        "pytorch-lightning",
        "pandas",
        "numpy",
    )
    return {
        file.name.removesuffix(".freeze.txt"): {
            name: number
            for line in file.read_text().splitlines()
            for name, _, number in [line.partition("==")]
            if name in wanted
        }
        for file in sorted(PEERS.glob("*.freeze.txt"))
    }


def format_table(results: dict[str, list[dict[str, Any]]], missing: list[str]) -> str:
    """A markdown table, fastest first, with the ratio to the bare loop round by round."""
    lines = [
        "| | windows/s, median | of the bare loop | lowest .. highest | peak memory MiB | imports s | data s |",
        "|---|---|---|---|---|---|---|",
    ]
    speeds = {
        name: statistics.median(entry["windows_per_second"] for entry in entries) for name, entries in results.items()
    }
    for name in sorted(speeds, key=lambda name: -speeds[name]):
        rates = [entry["windows_per_second"] for entry in results[name]]
        pairs = zip(results[name], results.get("bare", []), strict=False)
        ratios = [entry["windows_per_second"] / bare["windows_per_second"] for entry, bare in pairs]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        memory, imports, data = (
            statistics.median(entry[key] for entry in results[name])
            for key in ("peak_memory_mib", "import_seconds", "prepare_seconds")
        )
        label = CONTESTANTS[name].label
        lines.append(
            f"| {label} | {speeds[name]:.0f} | {ratio} | {min(rates):.0f} .. {max(rates):.0f} "
            f"| {memory:.0f} | {imports:.1f} | {data:.1f} |"
        )
    note = f"\nNot installed, left out: {', '.join(missing)}.\n" if missing else ""
    return "\n".join(lines) + "\n" + note


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the steps of every repetition")
    parser.add_argument("--warm-up", type=int, default=30, help="steps not counted")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--only", default="", help=f"comma-separated from {', '.join(CONTESTANTS)}")
    parser.add_argument("--name", default="fit_speed", help="name of the result files")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.only.split(",") if name] or list(CONTESTANTS)
    missing = [name for name in chosen if not CONTESTANTS[name].interpreter.exists()]
    chosen = [name for name in chosen if name not in missing]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for number in range(arguments.rounds):
        turn = number % len(chosen)
        for name in chosen[turn:] + chosen[:turn]:
            entry = run(CONTESTANTS[name], arguments)
            results[name].append(entry)
            print(
                f"round {number + 1}  {name:<22}{entry['windows_per_second']:>9.0f} windows/s",
                file=sys.stderr,
                flush=True,
            )
    job = {key: getattr(arguments, key) for key in ("threads", "hidden_size", "num_layers", "rounds", "scale")}
    table = format_table(results, missing)
    write_results(
        arguments.name, table, {"machine": machine(), "job": job, "peers": peer_versions(), "results": results}
    )
    return int(not _target_met(results))


def _target_met(results: dict[str, list[dict[str, Any]]]) -> bool:
    speeds = {
        name: statistics.median(entry["windows_per_second"] for entry in entries) for name, entries in results.items()
    }
    if not {"bare", "gradcast"} <= speeds.keys():
        return True
    ratios = [
        mine["windows_per_second"] / bare["windows_per_second"]
        for mine, bare in zip(results["gradcast"], results["bare"], strict=True)
    ]
    fastest = all(speeds["gradcast"] > speed for name, speed in speeds.items() if CONTESTANTS[name].peer is not None)
    return statistics.median(ratios) >= TARGET and fastest


if __name__ == "__main__":
    sys.exit(main())
