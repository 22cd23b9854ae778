"""Run the cases through the pipeline, as they are, with every single change, and with what their verdict proposes.

Resumable: a run that has its `outcome.json` is not done again. Several processes may work on the same folder.

usage: benchmarks/verdicts/run.py WORK [--stage base changes repair] [--jobs 1] [--only CASE ...] [--seeds 0 1 2]
                                         [--recompute]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import CASES, SEEDS
from changes import CHANGES, difference
from outcomes import BASE, REPAIR, Key, Outcome, is_faulty, read_outcomes, run_folder
from verdict_store import draw_verdict, first_remedy

STAGES = ("base", "changes", "repair")


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        case: Name of the case.
        change: `base`, the name of a change, or `repair`.
        seed: Of data and fit.
        settings: What the change sets.
    """

    case: str
    change: str
    seed: int
    settings: dict[str, Any]


def base_jobs(cases: Iterable[str], seeds: Iterable[int]) -> Iterator[Job]:
    """Every case as it is."""
    return (Job(case, BASE, seed, {}) for case in cases for seed in seeds)


def change_jobs(work: Path, cases: Iterable[str], seeds: Iterable[int]) -> Iterator[Job]:
    """Every faulty case with every change that changes anything; seed by seed, so that two of three are soon there."""
    outcomes = read_outcomes(work)
    faulty = [CASES[case] for case in cases if _is_known_faulty(outcomes, case)]
    for seed in seeds:
        for case in faulty:
            for change in CHANGES.values():
                changed = difference(change, case.settings, case.task.settings)
                if changed:
                    yield Job(case.name, change.name, seed, changed)


def _is_known_faulty(outcomes: Mapping[Key, Outcome], case: str) -> bool:
    return all((case, BASE, seed) in outcomes for seed in SEEDS) and is_faulty(outcomes, case)


def repair_jobs(work: Path, cases: Iterable[str], seeds: Iterable[int], recompute: bool) -> Iterator[Job]:
    """Every run of a faulty case whose verdict proposes something, with its first finding's first remedy."""
    outcomes = read_outcomes(work)
    for case in cases:
        if not _is_known_faulty(outcomes, case):
            continue
        for seed in seeds:
            remedy = first_remedy(draw_verdict(run_folder(work, case, BASE, seed), outcomes[case, BASE, seed], recompute))
            if remedy:
                yield Job(case, REPAIR, seed, remedy)


def run_job(work: Path, job: Job) -> Outcome:
    """Do one run and keep what it left; must be called in a process whose threads are limited."""
    folder = run_folder(work, job.case, job.change, job.seed)
    shutil.rmtree(folder, ignore_errors=True)
    scratch = folder / "run"
    folder.mkdir(parents=True)
    case = CASES[job.case]
    sample = case.task.sample(job.seed)
    data = folder / "data.parquet"
    sample.table.to_parquet(data)
    settings = case.settings | job.settings | {"data.path": str(data), "fit.seed": job.seed}
    started = time.perf_counter()
    error, seconds, failure = fit(settings, scratch, folder, is_base=job.change == BASE)
    outcome = Outcome(
        case=job.case, change=job.change, seed=job.seed, changed=job.settings, test_error=error, failure=failure,
        achievable=sample.achievable, trivial=sample.trivial, bar=sample.bar, fit_seconds=round(seconds, 2),
        seconds=round(time.perf_counter() - started, 2),
    )  # fmt: skip
    shutil.rmtree(scratch, ignore_errors=True)
    data.unlink()
    outcome.write(folder)
    return outcome


def fit(settings: dict[str, Any], scratch: Path, kept: Path, is_base: bool) -> tuple[float | None, float, str]:
    """Train and score on the test rows.

    Args:
        settings: Dotted keys.
        scratch: Directory of the run.
        kept: Where readings, evidence and verdict of a base run go.
        is_base: Other runs are asked for their error alone, so that nothing but fit and backtest is done.

    Returns:
        Mean absolute test error (None if the fit failed), seconds of the fit, and what failed.
    """
    from training.config import load_config
    from training.errors import NumericalError
    from training.pipeline import fit_and_judge
    from training.preparation import prepare
    from training.reporting import write_gradients
    from training.run_directory import RunDirectory

    nulls = [f"{key}=null" for key, value in settings.items() if value is None]
    given = {key: value for key, value in settings.items() if value is not None}
    if not is_base:
        given["gradients.preset"] = "off"
    started = time.perf_counter()
    prepared = prepare(load_config(None, nulls, given))
    run = RunDirectory.create(prepared.config, scratch)
    try:
        judged = fit_and_judge(prepared, run)
    except NumericalError as error:
        test_error: float | None = None
        seconds = time.perf_counter() - started
        failure = f"{error.where} is {error.actual}"[:200]
    else:
        write_gradients(run, judged.evidence, judged.state.readings, judged.verdict)
        test_error, seconds = judged.backtests["test"].metrics["mae"], judged.state.fit_seconds
        failure = ""
    if is_base:
        shutil.copytree(run.path / "gradients", kept, dirs_exist_ok=True)
    return test_error, seconds, failure


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)


def _guarded(work: Path, job: Job) -> tuple[Job, Outcome | None, str]:
    try:
        return job, run_job(work, job), ""
    except Exception:  # noqa: BLE001  one broken run must not end a night of them; it is reported and done again
        return job, None, traceback.format_exc(limit=-1).strip().replace("\n", " | ")


def is_done(work: Path, job: Job) -> bool:
    """Whether this very run is there; a remedy that the rules have changed since is another run."""
    path = run_folder(work, job.case, job.change, job.seed) / "outcome.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["changed"] == job.settings


def run_all(work: Path, jobs: list[Job], num_workers: int) -> int:
    """Do what is not done, with a line of progress per run.

    Returns:
        Number of runs that broke.
    """
    pending = [job for job in jobs if not is_done(work, job)]
    print(f"{len(jobs)} runs, {len(jobs) - len(pending)} done already", flush=True)
    started, broken = time.monotonic(), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool:
        futures = [pool.submit(_guarded, work, job) for job in pending]
        for count, future in enumerate(as_completed(futures), 1):
            job, outcome, trouble = future.result()
            left = (time.monotonic() - started) / count * (len(pending) - count)
            result = trouble if outcome is None else outcome.describe()
            broken += outcome is None
            print(f"{count}/{len(pending)} {left / 60:.0f} min left  {job.case} {job.change} {job.seed}: {result}", flush=True)
    return broken


def _jobs(stage: str, arguments: argparse.Namespace) -> Iterator[Job]:
    work, cases, seeds = arguments.work, arguments.only, arguments.seeds
    if stage == "base":
        return base_jobs(cases, seeds)
    return change_jobs(work, cases, seeds) if stage == "changes" else repair_jobs(work, cases, seeds, arguments.recompute)


def main() -> int:
    """Parse, run, say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the runs; kept between calls")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--jobs", type=int, default=1, help="worker processes, one thread each")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--recompute", action="store_true", help="repair what today's rules propose, not the stored verdicts")
    arguments = parser.parse_args()
    broken = 0
    for stage in arguments.stage:
        print(f"--- {stage}", flush=True)
        broken += run_all(arguments.work, list(_jobs(stage, arguments)), arguments.jobs)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
