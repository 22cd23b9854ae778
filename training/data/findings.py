"""What an audit finds, and how it says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
# Findings of one code that the text shows; the JSON document always holds all of them.
_SHOWN: dict[Severity, int] = {"error": 50, "warning": 20, "info": 5}


@dataclass(frozen=True)
class AuditProblem:
    """One finding.

    Attributes:
        code: Stable identifier of the kind of finding.
        severity: `error` if training would refuse the file, `warning` if something will be treated in a way one should
            know, `info` if it is worth knowing.
        series: Series concerned, None if it is the file.
        row: Line of the file (1 is the first; for parquet the row), None if it is no single row.
        count: Rows concerned.
        message: The finding as a sentence.
        fix: What could be done; nothing has been done.
    """

    code: str
    severity: Severity
    series: str | None
    row: int | None
    count: int
    message: str
    fix: str = ""

    def __str__(self) -> str:
        where = [f"series {self.series!r}"] if self.series is not None else []
        where += [f"line {self.row}"] if self.row is not None else []
        place = ", ".join(where)
        return f"{place}: {self.message}" if place else self.message


@dataclass(frozen=True)
class Audit:
    """The audit of one file.

    Attributes:
        path: The file.
        summary: What the file holds: rows, series, span, freq, season_length, columns and the like.
        problems: Findings, the worst first.
    """

    path: str
    summary: dict[str, Any]
    problems: tuple[AuditProblem, ...]

    @property
    def is_usable(self) -> bool:
        """Whether training would take the file as configured."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """The whole audit as plain values for JSON."""
        problems = [asdict(problem) for problem in self.problems]
        return {"path": self.path, "is_usable": self.is_usable, "summary": self.summary, "problems": problems}

    def to_text(self) -> str:
        """The audit for people: the summary, then the findings by kind."""
        lines = [self.path]
        lines += [
            f"  {name}: {_as_text(value)}" for name, value in self.summary.items() if value not in (None, "", [], {})
        ]
        counts = {severity: sum(problem.severity == severity for problem in self.problems) for severity in SEVERITIES}
        lines.append("  findings: " + ", ".join(f"{number} {severity}" for severity, number in counts.items()))
        groups: dict[tuple[Severity, str], list[AuditProblem]] = defaultdict(list)
        for problem in self.problems:
            groups[problem.severity, problem.code].append(problem)
        for (severity, code), group in groups.items():
            lines.append(f"{severity} {code}")
            lines += _group_lines(group, _SHOWN[severity])
        return "\n".join(lines)


def _group_lines(group: list[AuditProblem], shown: int) -> list[str]:
    """Findings of one code; a fix that they share is said once."""
    fixes = {problem.fix for problem in group}
    is_shared = len(fixes) == 1
    lines = [
        f"  - {problem}" if is_shared or not problem.fix else f"  - {problem} {problem.fix}"
        for problem in group[:shown]
    ]
    if len(group) > shown:
        lines.append(f"  ... and {len(group) - shown} more; --json lists all")
    if is_shared and group[0].fix:
        lines.append(f"  fix: {group[0].fix}")
    return lines


def sort_problems(problems: Iterable[AuditProblem]) -> tuple[AuditProblem, ...]:
    """The worst first, otherwise in the order of finding."""
    return tuple(sorted(problems, key=lambda problem: SEVERITIES.index(problem.severity)))


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
