"""What the instruments cost: time of a training step with the presets off, economy and full, interleaved.

Targets: economy at most 3 % and full at most 10 % above off, at hidden sizes 64 and 256 and contexts 96 and 336.

usage: benchmarks/instrument_cost.py [--rounds 5] [--threads 1] [--hidden-sizes 64,256] [--contexts 96,336]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from reporting import machine, write_results

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.allocator import keep_freed_memory
from training.config import load_config
from training.loop import Fit
from training.pipeline import build_fit
from training.preparation import prepare
from training.run_directory import RunDirectory

PRESETS = ("off", "economy", "full")
TARGETS = {"economy": 0.03, "full": 0.10}
# Whole intervals of the schedules: the costliest instrument is due every five hundredth step.
BLOCK = 500


def build(data: Path, folder: Path, preset: str, hidden_size: int, context: int) -> Fit:
    """A fit of an LSTM on 20 series, at its first step."""
    settings = [
        f"gradients.preset={preset}", f"model.hidden_size={hidden_size}", f"model.context_length={context}",
        "model.horizon=24", "model.initialization=forget_bias", "fit.max_steps=1000000", "fit.patience=null",
        "fit.val_check_steps=1000000", "optimizer.schedule=constant", "gradients.need_steps=24",
    ]  # fmt: skip
    prepared = prepare(load_config(None, settings, {"data.path": str(data)}))
    run = RunDirectory.create(prepared.config, folder / f"{preset}-{hidden_size}-{context}")
    fit, _ = build_fit(prepared, run, *_silent())
    fit.forecaster.train()
    return fit


def _silent() -> tuple[Any, Any]:
    from training.progress import SILENT_PROGRESS
    from training.tracking.tracker import NOOP_TRACKER

    return NOOP_TRACKER, SILENT_PROGRESS


def time_block(fit: Fit, steps: int) -> float:
    """Seconds per step over so many steps, with everything that is due in them."""
    started = time.perf_counter()
    for _ in range(steps):
        fit._step()  # noqa: SLF001  the step as the fit runs it, without validation and checkpoints
    return (time.perf_counter() - started) / steps


def measure(data: Path, folder: Path, hidden_size: int, context: int, rounds: int, block: int) -> dict[str, list[float]]:
    """Seconds per step of every preset, block by block in turn."""
    fits = {preset: build(data, folder, preset, hidden_size, context) for preset in PRESETS}
    for fit in fits.values():
        time_block(fit, 10)
    seconds: dict[str, list[float]] = {preset: [] for preset in PRESETS}
    for number in range(rounds):
        turn = number % len(PRESETS)
        for preset in PRESETS[turn:] + PRESETS[:turn]:
            fits[preset].state.step = 10 + number * block
            seconds[preset].append(time_block(fits[preset], block))
    return seconds


def main() -> int:
    """Measure, print, write; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden-sizes", default="64,256")
    parser.add_argument("--contexts", default="96,336")
    parser.add_argument("--block", type=int, default=BLOCK, help="steps per block; a multiple of 500 holds every instrument")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    rows, results, met = [], {}, True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "series.parquet"
        write_series(data)
        for hidden_size in map(int, arguments.hidden_sizes.split(",")):
            for context in map(int, arguments.contexts.split(",")):
                seconds = measure(data, folder, hidden_size, context, arguments.rounds, arguments.block)
                over = {
                    preset: statistics.median(
                        mine / base - 1 for mine, base in zip(seconds[preset], seconds["off"], strict=True)
                    )
                    for preset in TARGETS
                }
                met = met and all(over[preset] <= target for preset, target in TARGETS.items())
                step = statistics.median(seconds["off"]) * 1e3
                rows.append(f"| {hidden_size} | {context} | {step:.1f} | {over['economy']:+.1%} | {over['full']:+.1%} |")
                print(rows[-1], file=sys.stderr, flush=True)
                results[f"{hidden_size}x{context}"] = seconds
    table = "\n".join(["| hidden size | context | step ms, off | economy | full |", "|---|---|---|---|---|", *rows]) + "\n"
    job = {"rounds": arguments.rounds, "threads": arguments.threads, "block": arguments.block, "batch_size": 64}
    write_results("instrument_cost", table, {"machine": machine(), "job": job, "seconds_per_step": results})
    return int(not met)


def write_series(path: Path) -> None:
    """20 hourly series of 2,000 rows."""
    random = np.random.default_rng(0)
    hours = np.arange(2000)
    frames = [
        pd.DataFrame(
            {
                "unique_id": f"s{number}",
                "ds": pd.date_range("2024-01-01", periods=len(hours), freq="h"),
                "y": 10 + np.sin(2 * np.pi * hours / 24) + 0.1 * random.standard_normal(len(hours)),
            }
        )
        for number in range(20)
    ]
    pd.concat(frames).to_parquet(path)


if __name__ == "__main__":
    sys.exit(main())
