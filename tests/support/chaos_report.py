"""The table of the chaos tests: each adds a row, pytest prints them all at the end.

The rows are part of the reports of the tests, so xdist passes them on.
``BERLIN_CHAOS_REPORT`` names a file that keeps them, as JSON: a further run replaces the rows of
the same faults on the same topology, so that the parts of a run add up.
``python -m tests.support.chaos_report <file>`` writes the table into ``tests/README.md``.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

PROPERTY = "chaos"
HEAD = ("fault", "topology", "runs", "worst recovery", "lost", "duplicated", "note")
TITLES: Final = {"single": "one Redis", "sentinel": "Sentinel", "cluster": "cluster"}
"""Of topologies, in the order of the table."""
README: Final = Path(__file__).parents[1] / "README.md"
_BEGIN, _END = "<!-- chaos -->\n", "<!-- /chaos -->\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: number of its runs, slowest recovery in seconds, jobs lost and duplicated.

    ``took_s`` is the time of its tests in seconds, ``day`` when they ran (``2026-11-29``).
    """

    fault: str
    runs: int
    worst_recovery_s: float | None
    lost: int
    duplicated: int
    note: str = ""
    topology: str = "single"
    took_s: float = 0.0
    day: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """The key of a row, by which rows are sorted, too."""
        return self.fault.casefold(), list(TITLES).index(self.topology)

    def cells(self) -> tuple[str, ...]:
        """Return the row as texts, in the order of :data:`HEAD`."""
        took = "none" if self.worst_recovery_s is None else f"{self.worst_recovery_s:.1f} s"
        numbers = (str(self.runs), took, str(self.lost), str(self.duplicated))
        return (self.fault, TITLES[self.topology], *numbers, self.note)


def merged(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each fault and topology, by name: sums, and the worst recovery."""
    found: dict[tuple[str, int], Row] = {}
    for row in rows:
        seen = found.get(row.place)
        if seen is None:
            found[row.place] = row
            continue
        times = [t for t in (seen.worst_recovery_s, row.worst_recovery_s) if t is not None]
        notes = dict.fromkeys(filter(None, (*seen.note.split("; "), *row.note.split("; "))))
        found[row.place] = replace(
            row,
            runs=seen.runs + row.runs,
            worst_recovery_s=max(times, default=None),
            lost=seen.lost + row.lost,
            duplicated=seen.duplicated + row.duplicated,
            note="; ".join(notes),
            took_s=seen.took_s + row.took_s,
        )
    return sorted(found.values(), key=lambda row: row.place)


def updated(kept: Iterable[Row], rows: Sequence[Row]) -> list[Row]:
    """Return the rows of earlier parts of a run and those of this one, which replace them."""
    new = {row.place for row in rows}
    return merged([*(row for row in kept if row.place not in new), *rows])


def markdown(rows: Sequence[Row]) -> str:
    """Return the table, and how long each topology took, for a README."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.cells() for row in rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    days = sorted({row.day for row in rows if row.day})
    if not days:
        return table
    took = [
        f"{TITLES[kind]} {sum(row.took_s for row in rows if row.topology == kind) / 60:.0f} min"
        for kind in TITLES
        if any(row.topology == kind for row in rows)
    ]
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    return f"{table}\nRun on {when}. Time of the tests, two at a time: {', '.join(took)}.\n"


def plain(rows: Sequence[Row]) -> list[str]:
    """Return the table in columns, for a terminal."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (map(str.ljust, line, widths) for line in lines)
    return ["  ".join(line).rstrip() for line in padded]


def properties(row: Row) -> tuple[str, Mapping[str, Any]]:
    """Return the row as a property of the report of a test."""
    return PROPERTY, asdict(row)


def rows_of(report: Any) -> list[Row]:
    """Return the rows of a test, with its time and its day; the note shows if it failed."""
    if getattr(report, "when", None) != "call":
        return []
    found = [Row(**value) for name, value in report.user_properties if name == PROPERTY]
    day = time.strftime("%Y-%m-%d", time.gmtime())
    failed = "" if report.passed else "FAILED"
    return [
        replace(
            row,
            took_s=report.duration / len(found),
            day=day,
            note="; ".join(filter(None, (failed, row.note))),
        )
        for row in found
    ]


def load(place: Path) -> list[Row]:
    """Return the rows that a file keeps; none if it does not exist."""
    if not place.exists():
        return []
    return [Row(**each) for each in json.loads(place.read_text(encoding="utf-8"))]


def inserted(text: str, rows: Sequence[Row]) -> str:
    """Return a README with the table between its markers; raises ``ValueError`` without them."""
    head, _, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not end:
        raise ValueError(f"{_BEGIN.strip()} and {_END.strip()} are missing")
    return f"{head}{_BEGIN}{markdown(rows)}{_END}{tail}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table, and keep its rows in the file that the environment names."""
    reports = [each for group in terminalreporter.stats.values() for each in group]
    rows = merged(row for report in reports for row in rows_of(report))
    if not rows:
        return
    terminalreporter.write_sep("=", "chaos")
    for line in plain(rows):
        terminalreporter.write_line(line)
    if name := os.environ.get("BERLIN_CHAOS_REPORT"):
        place = Path(name)
        kept = [asdict(row) for row in updated(load(place), rows)]
        place.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    README.write_text(inserted(README.read_text("utf-8"), load(Path(sys.argv[1]))), "utf-8")
