"""What came out of a suite, and whether it is what ``expected.toml`` says. No I/O but reading."""

import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ORDER: Final = ("failure", "error", "skipped")


@dataclass(frozen=True)
class Difference:
    """One test that ends in another way than on the stock parts, or must not be run."""

    ours: str
    theirs: str
    reason: str


def outcomes_of(report: Path) -> dict[str, str]:
    """Read a JUnit report: the name of each test and ``passed``, ``failed`` or ``skipped``.

    Of a test that was rerun the last run counts. Subtests count as their test.
    """
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):  # pytest wrote it a moment ago
        kinds = [kind for kind in _ORDER if case.find(kind) is not None]
        outcome = {"failure": "failed", "error": "failed", "skipped": "skipped"}.get(
            kinds[0] if kinds else "", "passed"
        )
        found[f"{case.get('classname')}.{case.get('name')}"] = outcome
    return found


def expected_differences(path: Path, suite: str) -> dict[str, Difference]:
    """Read the differences that are known, each with its reason."""
    tables = tomllib.loads(path.read_text()).get(suite, {})
    return {name: Difference(**entry) for name, entry in tables.items()}


def complaints(
    ours: Mapping[str, str], theirs: Mapping[str, str], expected: Mapping[str, Difference]
) -> list[str]:
    """Return a line for each difference that is not expected, and each that is gone."""
    lines = []
    for name in sorted(ours.keys() | theirs.keys() | expected.keys()):
        found = ours.get(name, "missing"), theirs.get(name, "missing")
        known = expected.get(name)
        detail = f"{name}: {found[0]} on ours, {found[1]} on theirs"
        if known is None and found[0] != found[1]:
            lines.append(f"{detail}, and no reason is known")
        elif known is not None and found != (known.ours, known.theirs):
            lines.append(f"{detail}, expected {known.ours} and {known.theirs}")
    return lines
