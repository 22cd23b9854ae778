"""A run's review for the terminal: the verdict, its sentence, reach beside need, findings, and commands to paste."""

from __future__ import annotations

import math
import shlex

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from training.report.comparison import comparison_rows, conclusion, differing_settings
from training.report.hero import STATUS_WORDS
from training.report.review import RunReview
from training.report.words import (
    RULE_WORDS,
    arrival_sentence,
    collect_remedies,
    headline,
    outcome_sentence,
    ratio_text,
    remedy_command,
    setting_text,
)

BAR_WIDTH = 40
MAX_REMEDIES = 4
STYLES = {"healthy": "bold green", "inconclusive": "bold yellow"}
SEVERITY_STYLES = {"fault": "bold red", "warning": "yellow", "info": "dim"}


def print_review(console: Console, review: RunReview) -> None:
    """Print one run.

    Args:
        console: Where to; without a terminal behind it there are no colours.
        review: The run.
    """
    verdict = review.verdict
    facts = f"  {review.name}, {review.evidence.step:,} steps, {STATUS_WORDS[review.status]}"
    console.print(
        Text(verdict.verdict.replace("_", " ").upper(), STYLES.get(verdict.verdict, "bold red")) + Text(facts, "dim")
    )
    console.print(
        Padding(
            Text(headline(verdict, review.evidence, review.unit, review.typical_reach), "bold"),
            (1, 0, 1, 2),
            expand=False,
        )
    )
    if review.is_preliminary:
        words = f"Drawn just now from the checkpoint at step {review.evidence.step:,}: the run has not ended and it may change."
        console.print(Padding(Text(words, "yellow"), (0, 0, 1, 2), expand=False))
    _print_reach(console, review)
    sentence = outcome_sentence(review.evidence.outcome)
    if sentence:
        console.print(Padding(sentence, (0, 0, 0, 2), expand=False))
    if verdict.findings:
        console.print()
        _print_findings(console, review)
    print_remedies(console, review)


def print_remedies(console: Console, review: RunReview) -> None:
    """Print what to change, as commands on one line each however wide the terminal is."""
    remedies = collect_remedies(review.verdict)
    if review.forensics is not None:
        console.print()
        command = shlex.join(["gradcast", "diagnose", "--replay", str(review.forensics)])
        console.print(Text("  Repeat the step it stopped at: ") + Text(command, "cyan"), soft_wrap=True)
    if not remedies:
        return
    console.print()
    console.print(Text("  What to do, the most promising first", "bold"))
    for number, (_, remedy) in enumerate(remedies[:MAX_REMEDIES], 1):
        console.print(Padding(f"{number}. {remedy.why[:1].upper()}{remedy.why[1:]}:", (0, 0, 0, 2), expand=False))
        console.print(Text(f"     {remedy_command(remedy, review.config_path)}", "cyan"), soft_wrap=True)


def print_comparison(console: Console, first: RunReview, second: RunReview) -> None:
    """Print two runs side by side.

    Args:
        console: Where to.
        first: Left column.
        second: Right column.
    """
    console.print(Text(conclusion(first, second), "bold"))
    console.print()
    console.print(_columns("", first.name, second.name, comparison_rows(first, second)))
    settings = differing_settings(first, second)
    if not settings:
        console.print("\nThey were trained with the same settings.")
        return
    rows = [(key, setting_text(left), setting_text(right)) for key, (left, right) in settings.items()]
    console.print()
    console.print(_columns("set differently", first.name, second.name, rows))


def _print_reach(console: Console, review: RunReview) -> None:
    """Reach and need as bars of one scale."""
    verdict, unit = review.verdict, review.unit
    reach, need = verdict.reach_steps, verdict.need_steps
    if reach is None:
        console.print("  How far the gradient reaches was not measured.")
        return
    longest = max(reach, need or 0, 1)
    for word, steps, style in (("reach", reach, "blue"), ("need", need, "magenta")):
        if steps is not None:
            length = max(round(BAR_WIDTH * steps / longest), 1 if steps else 0)
            bar = Text("█" * length, style) + Text("░" * (BAR_WIDTH - length), "dim")
            console.print(Text(f"  {word:<6}") + bar + Text(f" {unit.count(steps)}"))
    ratio = review.ratio_at_need
    if need is not None and not math.isnan(ratio):
        console.print(f"  {arrival_sentence(ratio, need, unit)}", soft_wrap=True)


def _print_findings(console: Console, review: RunReview) -> None:
    """Severity, what, where and the numbers in one line, the whole sentence below it."""
    for finding in review.verdict.findings:
        numbers = f"{ratio_text(finding.value)} (limit {ratio_text(finding.threshold)})"
        line = f"{RULE_WORDS.get(finding.rule, finding.rule)}: {finding.where}, step {finding.step:,}, {numbers}"
        console.print(Text(f"  {finding.severity:<8} ", SEVERITY_STYLES[finding.severity]) + Text(line, "not dim"))
        console.print(Padding(Text(finding.message, "dim"), (0, 0, 0, 11), expand=False))


def _columns(title: str, left: str, right: str, rows: list[tuple[str, str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in (title, left, right):
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
