"""The column of gradcast in the table of peers: the same tasks, rows and origins, through the command line.

usage: benchmarks/accuracy/gradcast_column.py PEERS TASK[,TASK] [--seeds 0,1,2] [--label gradcast] [--set KEY=VALUE ...]

PEERS is the folder of the peers' scripts (tasks.py, run_peer.py, score.py); ACC_DATA names the data, as they ask.
Writes PEERS' own format, OUT/LABEL/TASK-SEED.parquet and .json, so that their score.py scores everybody alike.

Only what the protocol fixes is set: horizon, the covariates that everybody gets (so no calendar of our own), the rows
of validation, the seed. All else is gradcast's default, or what --set says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from command import gradcast

NETWORK = ("architecture", "context_length", "linear_share", "linear_length", "recurrent_length")
"""Keys of the configuration that say which network was chosen."""


def write_rows(series: list[Any], path: Path, until_train_end: bool) -> list[str]:
    """Long rows of every series with the covariates of the task; returns the covariates' names."""
    names = [f"x{index}" for index in range(series[0].X.shape[1])]
    frames = []
    for one in series:
        end = one.train_end if until_train_end else len(one.y_raw)
        columns = {name: one.X[:end, index] for index, name in enumerate(names)}
        frames.append(pd.DataFrame({"unique_id": one.id, "ds": one.ds[:end], "y": one.y_raw[:end], **columns}))
    pd.concat(frames, ignore_index=True).to_parquet(path, index=False)
    return names


def run(
    task: dict[str, Any], series: list[Any], seed: int, settings: list[str], folder: Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train on the rows before the first origin, forecast from all of them."""
    covariates = write_rows(series, folder / "train.parquet", until_train_end=True)
    write_rows(series, folder / "all.parquet", until_train_end=False)
    started = time.perf_counter()
    settings = [
        f"model.horizon={task['horizon']}", f"data.val_size={task['horizon']}", "data.calendar=none",
        f"data.season_length={task['season']}", f"data.futr_exog=[{','.join(covariates)}]",
        "tracking.register=false", f"tracking.uri=sqlite:///{folder}/mlflow.db", *settings,
    ]  # fmt: skip
    trained = gradcast(
        "train", "--data", str(folder / "train.parquet"), "--out", str(folder / "run"), "--seed", str(seed),
        *(part for setting in settings for part in ("--set", setting)),
    )  # fmt: skip
    middle = time.perf_counter()
    network = yaml.safe_load((folder / "run" / "config.yaml").read_text())["model"]
    gradcast(
        "backtest", "--bundle", str(folder / "run" / "bundle"), "--data", str(folder / "all.parquet"),
        "--windows", str(task["n_windows"]), "--step-size", str(task["step"]), "--output", str(folder / "out.parquet"),
    )  # fmt: skip
    information = {
        "fit_s": trained["timing"]["fit_seconds"], "train_s": middle - started, "pred_s": time.perf_counter() - middle,
        "steps": trained["timing"]["steps"], "verdict": trained["gradients"]["verdict"],
        "reach": trained["gradients"]["reach_steps"], "need": trained["gradients"]["need_steps"],
        "val": trained["metrics"].get("val/mase"),
        "network": {key: network[key] for key in NETWORK},
    }  # fmt: skip
    return pd.read_parquet(folder / "out.parquet"), information


def as_peers_write(forecasts: pd.DataFrame, series: list[Any], horizon: int) -> pd.DataFrame:
    """The peers' columns; every series and origin of the task must be there."""
    point = "0.5" if "0.5" in forecasts.columns else "mean"
    rows = []
    groups = dict(iter(forecasts.groupby("unique_id", sort=False)))
    for one in series:
        group = groups[one.id].sort_values(["cutoff", "ds"])
        cutoffs = [one.ds[origin - 1] for origin in one.origins]
        assert list(np.unique(group["cutoff"].to_numpy())) == cutoffs, (
            one.id,
            group["cutoff"].unique()[:3],
            cutoffs[:3],
        )
        values = group[point].to_numpy().reshape(len(cutoffs), horizon)
        for origin, cutoff, row in zip(one.origins, cutoffs, values, strict=True):
            part = slice(origin, origin + horizon)
            rows.append(
                pd.DataFrame(
                    {"unique_id": one.id, "ds": one.ds[part], "cutoff": cutoff, "y": one.y_raw[part], "yhat": row}
                )
            )
    return pd.concat(rows, ignore_index=True)


def main() -> int:
    """One file per task and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    parser.add_argument("tasks")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--label", default="gradcast")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.peers))
    from tasks import load

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in arguments.tasks.split(","):
        task, series = load(name)
        for seed in map(int, arguments.seeds.split(",")):
            target = arguments.out / arguments.label / f"{name}-{seed}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as folder:
                forecasts, information = run(task, series, seed, arguments.settings, Path(folder))
            as_peers_write(forecasts, series, task["horizon"]).to_parquet(f"{target}.parquet")
            Path(f"{target}.json").write_text(json.dumps(information | {"error": None}))
            print(arguments.label, name, seed, information, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
