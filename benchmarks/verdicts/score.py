"""Score the verdicts of finished runs against their outcomes, beside the rivals'.

usage: benchmarks/verdicts/score.py WORK [--recompute] [--name verdicts]

`--recompute` draws every verdict anew from the stored evidence and readings, so that rules can be worked on without
running anything again; what the new verdict proposes must then be run (`run.py WORK --stage repair --recompute`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cases import CASES, SEEDS
from changes import CHANGES, FIXED_POLICY, difference
from intervals import Rate, rate
from outcomes import BASE, REPAIR, Key, Outcome, is_faulty, read_outcomes, run_folder, solving_changes, true_causes
from reporting import machine, write_results
from rivals import RIVALS
from verdict_store import draw_verdict, first_remedy, read_log

from training.gradients.verdict import Verdict

FINE = ("healthy", "inconclusive")
MINE = "gradcast"


@dataclass(frozen=True)
class Judged:
    """One base run with everybody's verdict on it.

    Attributes:
        case: Name of the case.
        seed: Of data and fit.
        outcome: What it reached.
        verdicts: By judge; None = nothing is wrong.
        rule: gradcast's rule that decided.
        message: And its sentence.
        remedy: What gradcast proposes first.
        is_repaired: Whether that solved it; None if it was not tried.
    """

    case: str
    seed: int
    outcome: Outcome
    verdicts: dict[str, str | None]
    rule: str
    message: str
    remedy: dict[str, Any]
    is_repaired: bool | None

    @property
    def is_bad(self) -> bool:
        """Whether this run missed its bar."""
        return not self.outcome.is_solved


def judge_runs(work: Path, outcomes: Mapping[Key, Outcome], recompute: bool) -> list[Judged]:
    """Every base run with the verdicts of gradcast and its rivals."""
    judged = []
    for case in CASES:
        for seed in SEEDS:
            if (case, BASE, seed) not in outcomes:
                continue
            outcome, folder = outcomes[case, BASE, seed], run_folder(work, case, BASE, seed)
            verdict = draw_verdict(folder, outcome, recompute)
            verdicts: dict[str, str | None] = {MINE: None if verdict.verdict in FINE else verdict.verdict}
            for name, rival in RIVALS.items():
                # All of them notice a number that is none; gradcast's fit has stopped there.
                verdicts[name] = "non_finite" if outcome.failure else rival(*read_log(folder))
            judged.append(_with_repair(case, seed, outcome, verdicts, verdict, outcomes))
    return judged


def _with_repair(
    case: str,
    seed: int,
    outcome: Outcome,
    verdicts: dict[str, str | None],
    verdict: Verdict,
    outcomes: Mapping[Key, Outcome],
) -> Judged:
    finding = verdict.findings[0] if verdict.findings else None
    remedy = first_remedy(verdict)
    repaired = outcomes.get((case, REPAIR, seed))
    # A repair of another remedy, from before the rules changed, says nothing about this one.
    tried = repaired.is_solved if repaired is not None and repaired.changed == remedy else None
    rule, message = (finding.rule, finding.message) if finding else ("", "")
    return Judged(case, seed, outcome, verdicts, rule, message, remedy, tried if remedy else False)


def score_judge(judged: list[Judged], causes: Mapping[str, frozenset[str]], name: str) -> dict[str, Rate]:
    """Recall and cause accuracy over runs that missed their bar, false alarms over those that did not."""
    bad, good = [run for run in judged if run.is_bad], [run for run in judged if not run.is_bad]
    known = [run for run in bad if causes.get(run.case)]
    return {
        "recall": rate([(run.case, run.verdicts[name] is not None) for run in bad]),
        "false_alarms": rate([(run.case, run.verdicts[name] is not None) for run in good]),
        "cause": rate([(run.case, run.verdicts[name] in causes[run.case]) for run in known]),
    }


def score_repairs(judged: list[Judged], outcomes: Mapping[Key, Outcome]) -> dict[str, Rate]:
    """Share of bad runs of faulty cases that gradcast's first remedy solves, beside fixed and random ones."""
    bad = [run for run in judged if run.is_bad and is_faulty(outcomes, run.case)]

    def solved_by(change: str) -> Callable[[Judged], bool]:
        def is_solved(run: Judged) -> bool:
            tried = outcomes.get((run.case, change, run.seed))
            return tried is not None and tried.is_solved

        return is_solved

    scores = {MINE: rate([(run.case, run.is_repaired) for run in bad if run.is_repaired is not None])}
    for change in CHANGES:
        is_solved = solved_by(change)
        scores[f"always {change}"] = rate([(run.case, is_solved(run)) for run in bad])
    scores["random change"] = rate([(run.case, _share_solving(run, outcomes)) for run in bad])
    return scores


def _share_solving(run: Judged, outcomes: Mapping[Key, Outcome]) -> float:
    """Chance that a change drawn from those that change anything solves a run."""
    settings, task = CASES[run.case].settings, CASES[run.case].task.settings
    names = [change.name for change in CHANGES.values() if difference(change, settings, task)]
    tried = [outcomes[run.case, name, run.seed] for name in names if (run.case, name, run.seed) in outcomes]
    return sum(outcome.is_solved for outcome in tried) / max(len(tried), 1)


def format_report(
    scores: Mapping[str, Mapping[str, Rate]],
    repairs: Mapping[str, Rate],
    judged: list[Judged],
    outcomes: Mapping[Key, Outcome],
    causes: Mapping[str, frozenset[str]],
) -> str:
    """Markdown: judges, remedies, and one row per case."""
    num_cases = len({run.case for run in judged})
    num_faulty = sum(is_faulty(outcomes, case) for case in {run.case for run in judged})
    num_bad = sum(run.is_bad for run in judged)
    lines = [
        f"{num_cases} configurations, {len(judged)} runs; {num_faulty} configurations are faulty by outcome.",
        f"{num_bad} runs missed their bar. 95 % intervals by bootstrap over configurations.",
        "",
        "| judge | recall | false alarms | cause right |",
        "|---|---|---|---|",
    ]
    for name, score in scores.items():
        lines.append(f"| {name} | {score['recall']} | {score['false_alarms']} | {score['cause']} |")
    lines += ["", "| remedy | solves |", "|---|---|"]
    best_fixed = max((name for name in repairs if name.startswith("always")), key=lambda name: repairs[name].value)
    for name in (MINE, "random change", best_fixed, f"always {FIXED_POLICY}"):
        label = {MINE: "first remedy of gradcast's first finding", best_fixed: f"{best_fixed} (best fixed one)"}.get(name, name)
        lines.append(f"| {label} | {repairs[name]} |")
    lines += ["", "| configuration | error over bar, per seed | label | right causes | solved by | gradcast | repaired |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for case in CASES:
        runs = [run for run in judged if run.case == case]
        if runs:
            lines.append(_case_row(case, runs, outcomes, causes))
    return "\n".join(lines) + "\n"


def _case_row(
    case: str, runs: list[Judged], outcomes: Mapping[Key, Outcome], causes: Mapping[str, frozenset[str]]
) -> str:
    errors = " ".join(f"{run.outcome.error / run.outcome.bar:.2f}" for run in runs)
    faulty = is_faulty(outcomes, case)
    said = " ".join(run.verdicts[MINE] or "-" for run in runs)
    right = ", ".join(sorted(causes.get(case, ()))) or ("nobody knows" if faulty else "")
    solving = ", ".join(solving_changes(outcomes, case)) if faulty else ""
    marks = {True: "yes", False: "no", None: "?"}
    repaired = " ".join(marks[run.is_repaired] for run in runs) if faulty else ""
    return f"| {case} | {errors} | {'faulty' if faulty else 'healthy'} | {right} | {solving} | {said} | {repaired} |"


def main() -> int:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder that run.py filled")
    parser.add_argument("--recompute", action="store_true", help="draw verdicts anew from evidence and readings")
    parser.add_argument("--name", default="verdicts", help="name of the result files")
    arguments = parser.parse_args()
    outcomes = read_outcomes(arguments.work)
    complete = {case for case in CASES if all((case, BASE, seed) in outcomes for seed in SEEDS)}
    judged = [run for run in judge_runs(arguments.work, outcomes, arguments.recompute) if run.case in complete]
    causes = {case: true_causes(outcomes, case) for case in complete if is_faulty(outcomes, case)}
    scores = {name: score_judge(judged, causes, name) for name in (MINE, *RIVALS)}
    repairs = score_repairs(judged, outcomes)
    table = format_report(scores, repairs, judged, outcomes, causes)
    document = {
        "machine": machine(),
        "scores": {name: {key: asdict(value) for key, value in score.items()} for name, score in scores.items()},
        "repairs": {name: asdict(value) for name, value in repairs.items()},
        "runs": [asdict(run) for run in judged],
        "changes": [asdict(outcome) for (_, change, _), outcome in outcomes.items() if change != BASE],
    }
    write_results(arguments.name, table, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
