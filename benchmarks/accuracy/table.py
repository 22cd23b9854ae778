"""The table of peers from one or more files of scores, with what the comparison asks for.

usage: benchmarks/accuracy/table.py SCORES.csv [SCORES.csv ...] [--label gradcast] [--name accuracy]

SCORES.csv are written by the peers' score.py (columns task, lib, seed, MASE, fit_s, error). MASE is the mean over the seeds
that were run. Ranks and ratios compare LABEL with every library that finished the task; other columns of ours (LABEL-...)
are shown, and not ranked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from reporting import machine, write_results


def summary(mase: pd.DataFrame, label: str) -> dict[str, float | int | str]:
    """Mean rank, worst ratio to the best peer of a task, and geometric mean of the ratios to the best single peer.

    Args:
        mase: Tasks by libraries; NaN where a library did not run.
        label: Our column.
    """
    peers = mase.drop(columns=[name for name in mase if name.startswith(label)])
    ours = mase[label]
    ranks = 1 + (peers.lt(ours, axis=0)).sum(axis=1)
    ratios = ours / peers.min(axis=1)
    finished = peers.notna().sum()
    widest = peers.loc[:, finished == finished.max()]  # a library that ran on few tasks is no rival over all
    single = np.exp(np.log(widest.div(ours, axis=0)).mean())
    best = str(single.idxmin())
    return {
        "tasks": len(mase),
        "mean_rank": float(ranks.mean()),
        "worst_ratio_to_best_peer": float(ratios.max()),
        "worst_task": str(ratios.idxmax()),
        "best_single_peer": best,
        "better_than_it": float(1.0 - 1.0 / single[best]),
    }


def markdown(mase: pd.DataFrame, scores: pd.DataFrame, label: str) -> str:
    """A row per task: MASE of every library, and ours with its seeds."""
    lines = [f"| task | {' | '.join(mase.columns)} | lowest .. highest | seeds |", "|---" * (len(mase.columns) + 3) + "|"]
    for task, row in mase.iterrows():
        ours = scores[(scores["task"] == task) & (scores["lib"] == label)]["MASE"]
        best = row.min()
        cells = ["" if np.isnan(value) else f"**{value:.3f}**" if value == best else f"{value:.3f}" for value in row]
        lines.append(f"| {task} | {' | '.join(cells)} | {ours.min():.3f} .. {ours.max():.3f} | {len(ours)} |")
    return "\n".join(lines)


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", nargs="+", type=Path)
    parser.add_argument("--label", default="gradcast")
    parser.add_argument("--name", default="accuracy", help="name of the result files")
    options = parser.parse_args()
    scores = pd.concat([pd.read_csv(path) for path in options.scores], ignore_index=True)
    scores = scores[scores["error"].isna()]
    mase = scores.pivot_table(values="MASE", index="task", columns="lib", aggfunc="mean", sort=False)
    mase = mase[mase[options.label].notna()]
    ours = [name for name in mase if name.startswith(options.label)]
    mase = mase[[*(name for name in mase if name not in ours), *ours]]
    found = summary(mase, options.label)
    lines = [f"- {key.replace('_', ' ')}: {value:.3f}" if isinstance(value, float) else f"- {key.replace('_', ' ')}: {value}"
             for key, value in found.items()]  # fmt: skip
    columns = ["task", "lib", "seed", "MASE", "fit_s", "steps"]
    rows = scores.reindex(columns=columns).astype(object).where(scores.reindex(columns=columns).notna(), None)
    document = {"machine": machine(), "summary": found, "scores": rows.to_dict("records")}
    write_results(options.name, markdown(mase, scores, options.label) + "\n\n" + "\n".join(lines) + "\n", document)


if __name__ == "__main__":
    main()
