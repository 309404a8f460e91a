"""The table of the chaos tests: each adds a row, pytest prints them all at the end.

The rows travel with the reports of the tests, so that it works with xdist as well.
``BERLIN_CHAOS_REPORT`` names a file that gets the table as Markdown.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROPERTY = "chaos"
HEAD = ("fault", "runs", "worst recovery", "lost", "duplicated", "note")


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: number of its runs, slowest recovery in seconds, jobs lost and duplicated."""

    fault: str
    runs: int
    worst_recovery_s: float | None
    lost: int
    duplicated: int
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of :data:`HEAD`."""
        took = "none" if self.worst_recovery_s is None else f"{self.worst_recovery_s:.1f} s"
        return (self.fault, str(self.runs), took, str(self.lost), str(self.duplicated), self.note)


def merged(rows: Iterable[Row]) -> list[Row]:
    """One row for each fault, by name: sums, and the worst recovery."""
    by_fault: dict[str, Row] = {}
    for row in rows:
        seen = by_fault.get(row.fault)
        if seen is None:
            by_fault[row.fault] = row
            continue
        times = [t for t in (seen.worst_recovery_s, row.worst_recovery_s) if t is not None]
        notes = dict.fromkeys(filter(None, (*seen.note.split("; "), row.note)))
        by_fault[row.fault] = Row(
            row.fault,
            seen.runs + row.runs,
            max(times, default=None),
            seen.lost + row.lost,
            seen.duplicated + row.duplicated,
            "; ".join(notes),
        )
    return sorted(by_fault.values(), key=lambda row: row.fault.casefold())


def markdown(rows: Sequence[Row]) -> str:
    """The table, for a README."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plain(rows: Sequence[Row]) -> list[str]:
    """The table in columns, for a terminal."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return ["  ".join(line).rstrip() for line in padded]


def properties(row: Row) -> tuple[str, Mapping[str, Any]]:
    """The row as it travels with the report of a test."""
    return PROPERTY, asdict(row)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table, and write it where the environment says."""
    reports = [each for group in terminalreporter.stats.values() for each in group]
    found = [
        Row(**value)
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if not found:
        return
    rows = merged(found)
    terminalreporter.write_sep("=", "chaos")
    for line in plain(rows):
        terminalreporter.write_line(line)
    if place := os.environ.get("BERLIN_CHAOS_REPORT"):
        Path(place).write_text(markdown(rows), encoding="utf-8")
