"""The table of the chaos tests: one line for each fault, the worst of all its runs."""

from types import SimpleNamespace

import pytest

from tests.support.chaos_report import (
    Row,
    markdown,
    merged,
    plain,
    properties,
    pytest_terminal_summary,
)

pytestmark = pytest.mark.unit

ROWS = [
    Row("cut", 100, None, 0, 0, "a"),
    Row("SIGKILL", 1, 6.5, 0, 0, "a"),
    Row("cut", 1, 2.04, 2, 1, "b"),
    Row("cut", 1, 1.0, 0, 0, "a"),
]


def test_runs_of_a_fault_become_one_line():
    assert merged(ROWS) == [
        Row("cut", 102, 2.04, 2, 1, "a; b"),
        Row("SIGKILL", 1, 6.5, 0, 0, "a"),
    ]


def test_table_as_markdown_and_in_columns():
    written = markdown(merged(ROWS)).splitlines()
    assert written[0] == "| fault | runs | worst recovery | lost | duplicated | note |"
    assert written[1] == "| --- | --- | --- | --- | --- | --- |"
    assert written[2] == "| cut | 102 | 2.0 s | 2 | 1 | a; b |"
    head, first, second = plain(merged(ROWS))
    assert head.index("runs") == first.index("102") == second.index("1")


def test_pytest_shows_it_and_writes_it_down_whatever_became_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("BERLIN_CHAOS_REPORT", str(tmp_path / "table.md"))
    report = SimpleNamespace(when="call", user_properties=[properties(ROWS[1])])
    other = SimpleNamespace(when="teardown", user_properties=[properties(ROWS[1])])
    shown: list[str] = []
    reporter = SimpleNamespace(
        stats={"failed": [report], "": [other]},
        write_sep=lambda *_: None,
        write_line=shown.append,
    )
    pytest_terminal_summary(reporter)
    assert len(shown) == 2
    assert (tmp_path / "table.md").read_text() == markdown([ROWS[1]])


@pytest.mark.parametrize(
    "stats", [{}, {"passed": [SimpleNamespace(when="call", user_properties=[])]}]
)
def test_without_rows_there_is_no_table(stats):
    pytest_terminal_summary(SimpleNamespace(stats=stats))
