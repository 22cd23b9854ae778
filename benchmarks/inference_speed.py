"""One window through the network as the service runs it, beside the same network as ONNX in onnxruntime.

Target: at most 1.3 times onnxruntime, without depending on it.

An LSTM of 64 units from 96 steps to 24. Both forms are made from one bundle, give the same numbers, and run in turn in one thread
of one process. What counts is the processor's time of that thread, so that other work on the machine does not: the median over
rounds of a few passes each. Needs the extra `onnx`.

usage: benchmarks/inference_speed.py [--windows 1] [--rounds 100] [--passes 10]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from app.services.network import ServingNetwork
from benchmarks.reporting import machine, write_results
from benchmarks.serving.network import CONTEXT_LENGTH, HIDDEN_SIZE, HORIZON
from models.bundle import BundleManifest, load_bundle, save_bundle
from models.config import LSTMConfig
from models.registry import build_forecaster
from training.onnx_export import example_windows, export_onnx

WARM_UP = 20


def seconds_per_pass(run: Callable[[], object], passes: int) -> float:
    """Of the processor, mean of one round."""
    started = time.process_time()
    for _ in range(passes):
        run()
    return (time.process_time() - started) / passes


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("windows", 1), ("rounds", 100), ("passes", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        config = LSTMConfig(context_length=CONTEXT_LENGTH, horizon=HORIZON, hidden_size=HIDDEN_SIZE)
        save_bundle(Path(directory) / "bundle", build_forecaster(config), BundleManifest(network=config))
        bundle = load_bundle(Path(directory) / "bundle")
        report = export_onnx(bundle, Path(directory) / "network.onnx")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(report.path, settings, providers=["CPUExecutionProvider"])
    served = ServingNetwork(bundle.forecaster)
    inputs = example_windows(bundle.forecaster, options.windows)
    given = {name: tensor.numpy() for name, tensor in inputs._asdict().items() if name in report.inputs}
    ways: dict[str, Callable[[], object]] = {
        "gradcast": lambda: served(inputs), "onnxruntime": lambda: session.run(None, given),
    }  # fmt: skip
    difference = float(np.abs(served(inputs).transpose(0, 2, 1) - session.run(None, given)[0]).max())
    for way in ways.values():
        seconds_per_pass(way, WARM_UP)
    rounds = [{name: seconds_per_pass(way, options.passes) for name, way in ways.items()} for _ in range(options.rounds)]
    median = {name: statistics.median(each[name] for each in rounds) for name in ways}
    fastest = {name: min(each[name] for each in rounds) for name in ways}
    rows = [f"| {name} | {1e6 * median[name]:.0f} | {1e6 * fastest[name]:.0f} |" for name in ways]
    ratios = [times["gradcast"] / times["onnxruntime"] for times in (median, fastest)]
    rows.append(f"| gradcast over onnxruntime | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    table = "\n".join(["| | µs per pass, median of rounds | fastest round |", "|---|---|---|", *rows])
    job = vars(options) | {"largest_difference": difference, "is_traced": served.is_traced, "min_windows": served.min_windows}
    words = ", ".join(f"{key} {value}" for key, value in job.items())
    table += f"\n\nLSTM of {HIDDEN_SIZE} units, {CONTEXT_LENGTH} -> {HORIZON}, onnxruntime {onnxruntime.__version__}; {words}\n"
    write_results("inference_speed", table, {"machine": machine(), "job": job, "median": median, "fastest": fastest})


if __name__ == "__main__":
    main()
