"""What lost workers cost: a fit on Ray whose workers are killed at random moments, beside one that nobody disturbs.

Targets: no kill repeats more steps than lie between two checkpoints, every fit ends, and with the weights of the
undisturbed one to the bit. Seconds are from the kill to the first step of the new team, checkpoint read and processes
started anew. Every tenth step is recorded, so steps are counted to within ten.

usage: benchmarks/ray_recovery.py [--rounds 3] [--kills 2] [--workers 2] [--max-steps 1500] [--check-steps 100] [--note TEXT]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from reporting import machine, write_results

from training.checkpoint import LAST, read_checkpoint

POLL_SECONDS = 0.02
RUN_SECONDS = 3600.0
WORKER = "ray::RayTrainWorker"


def write_waves(path: Path) -> None:
    """Four series of daily waves with noise."""
    generator, hours, frames = np.random.default_rng(0), np.arange(2000), []
    for number in range(4):
        y = 10 * (number + 1) + 3 * np.sin(2 * np.pi * hours / 24) + generator.standard_normal(2000)
        ds = pd.date_range("2024-01-01", periods=2000, freq="h")
        frames.append(pd.DataFrame({"unique_id": f"s{number}", "ds": ds, "y": y}))
    pd.concat(frames).to_csv(path, index=False)


def start(folder: Path, name: str, arguments: argparse.Namespace) -> subprocess.Popen[str]:
    """`gradcast train --launcher ray` on a cluster of its own."""
    settings = {
        "model.hidden_size": 16, "model.context_length": 48, "model.horizon": 24, "model.initialization": "torch",
        "model.dropout": 0.1, "model.num_layers": 2, "fit.batch_size": 32, "fit.patience": "null",
        "fit.max_steps": arguments.max_steps, "fit.val_check_steps": arguments.check_steps,
    }  # fmt: skip
    command = [
        sys.executable, "-P", "-m", "training", "train", "--data", "waves.csv", "--launcher", "ray", "--quiet",
        f"--workers={arguments.workers}", f"--output={name}", "--no-register",
    ]  # fmt: skip
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def read_progress(run: Path) -> list[dict[str, Any]]:
    """What the leader wrote down: starts and logged steps."""
    path = run / "progress.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def find_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes of Ray Train's workers below a command."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith(WORKER):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for_step(process: subprocess.Popen[str], run: Path, num_starts: int, step: int) -> None:
    """Until the team that began as the `num_starts`-th has recorded a step beyond `step`."""
    deadline = time.monotonic() + RUN_SECONDS
    while True:
        entries = read_progress(run)
        starts = [index for index, entry in enumerate(entries) if "start" in entry]
        if len(starts) >= num_starts and any(entry.get("step", 0) > step for entry in entries[starts[num_starts - 1] :]):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the fit ended early:\n{process.communicate()[1][-3000:]}")
        time.sleep(POLL_SECONDS)


def disturbed(folder: Path, name: str, arguments: argparse.Namespace, chance: random.Random) -> list[dict[str, Any]]:
    """A fit in which workers are killed; one record per kill."""
    run, kills = folder / name, []
    moments = sorted(chance.sample(range(1, arguments.max_steps * 3 // 4), arguments.kills))
    process = start(folder, name, arguments)
    for number, moment in enumerate(moments, start=1):
        wait_for_step(process, run, number, moment)
        victim = chance.choice(find_workers(process))
        os.kill(victim.pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for_step(process, run, number + 1, 0)
        seconds = time.monotonic() - killed
        entries = read_progress(run)
        starts = [index for index, entry in enumerate(entries) if "start" in entry]
        reached, again = entries[starts[number] - 1].get("step", 0), entries[starts[number]]["start"]
        kills.append({"at": moment, "reached": reached, "from": again, "repeated": reached - again, "seconds": seconds})
        print(f"{name}  killed at {reached}, goes on from {again} after {seconds:.1f} s", file=sys.stderr, flush=True)
    _, said = process.communicate(timeout=RUN_SECONDS)
    if process.returncode:
        raise SystemExit(f"{name} failed:\n{said[-3000:]}")
    return kills


def same_weights(one: Path, other: Path) -> bool:
    """Whether two fits ended with the same bits."""
    first, second = (read_checkpoint(run / "checkpoints" / LAST)[0] for run in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first if name.startswith("network."))


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=2, help="per fit")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-steps", type=int, default=1500)
    parser.add_argument("--check-steps", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--note", default="", help="what the reader must know about the machine meanwhile")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)  # noqa: S311  no secret
    kills, equal = [], []
    with tempfile.TemporaryDirectory(prefix="gradcast-bench-") as place:
        folder = Path(place)
        write_waves(folder / "waves.csv")
        began = time.monotonic()
        _, said = (calm := start(folder, "calm", arguments)).communicate(timeout=RUN_SECONDS)
        if calm.returncode:
            raise SystemExit(f"the undisturbed fit failed:\n{said[-3000:]}")
        calm_seconds = time.monotonic() - began
        for number in range(arguments.rounds):
            kills += disturbed(folder, f"disturbed-{number}", arguments, chance)
            equal.append(same_weights(folder / "calm", folder / f"disturbed-{number}"))
    described = machine()
    described["versions"]["ray"] = version("ray")
    repeated, seconds = ([kill[key] for kill in kills] for key in ("repeated", "seconds"))
    fits = f"{arguments.rounds} fits with {arguments.kills} kills each, one with none ({calm_seconds:.0f} s with Ray's start)"
    lines = [
        f"{arguments.workers} workers, {arguments.max_steps} steps, a checkpoint every {arguments.check_steps}; {fits}.",
        "",
        "| | median | most |",
        "|---|---|---|",
        f"| steps repeated per kill | {statistics.median(repeated):.0f} | {max(repeated)} |",
        f"| seconds from the kill to the next step | {statistics.median(seconds):.1f} | {max(seconds):.1f} |",
        "",
        f"Fits that ended with the weights of the undisturbed one, to the bit: {sum(equal)} of {len(equal)}.",
        *(("", arguments.note) if arguments.note else ()),
    ]
    job = {key: getattr(arguments, key) for key in ("rounds", "kills", "workers", "max_steps", "check_steps", "seed")}
    results = {"kills": kills, "equal": equal, "calm_seconds": calm_seconds}
    write_results("ray_recovery", "\n".join(lines) + "\n", {"machine": described, "job": job, "results": results})
    # All of an interval where the kill comes while the checkpoint at its end is being written: the last one is the one before.
    return int(not (all(equal) and max(repeated) <= arguments.check_steps))


if __name__ == "__main__":
    sys.exit(main())
