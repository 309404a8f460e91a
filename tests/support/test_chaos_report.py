"""The table of the chaos tests: one line for each fault, the worst of all its runs."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.support.chaos_report import (
    Row,
    inserted,
    load,
    markdown,
    merged,
    plain,
    properties,
    pytest_terminal_summary,
    updated,
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


def test_topologies_have_lines_of_their_own():
    on_cluster = replace(ROWS[1], topology="cluster")
    assert merged([on_cluster, *ROWS])[1:] == [ROWS[1], on_cluster]


def test_further_part_of_a_run_replaces_its_own_lines_alone():
    again = Row("SIGKILL", 5, 2.0, 0, 0, topology="sentinel")
    kept = [*ROWS[:2], replace(again, lost=3)]
    assert updated(kept, [again]) == [ROWS[0], ROWS[1], again]


def test_table_as_markdown_and_in_columns():
    written = markdown(merged(ROWS)).splitlines()
    assert written[0] == "| fault | topology | runs | worst recovery | lost | duplicated | note |"
    assert written[1] == "| --- | --- | --- | --- | --- | --- | --- |"
    assert written[2] == "| cut | one Redis | 102 | 2.0 s | 2 | 1 | a; b |"
    head, first, second = plain(merged(ROWS))
    assert head.index("runs") == first.index("102") == second.index("1")


def test_times_of_topologies_are_below_the_table():
    rows = [
        replace(ROWS[0], took_s=100, day="2026-11-28"),
        replace(ROWS[1], took_s=80, day="2026-11-29"),
        replace(ROWS[1], took_s=300, day="2026-11-29", topology="cluster"),
    ]
    last = markdown(rows).splitlines()[-1]
    assert last == (
        "Run on 2026-11-28 to 2026-11-29. "
        "Time of the tests, two at a time: one Redis 3 min, cluster 5 min."
    )
    assert markdown(rows[1:]).splitlines()[-1].startswith("Run on 2026-11-29. ")


def test_table_is_written_between_the_markers():
    readme = "a\n<!-- chaos -->\nold\n<!-- /chaos -->\nb\n"
    written = f"a\n<!-- chaos -->\n{markdown(ROWS)}<!-- /chaos -->\nb\n"
    assert inserted(readme, ROWS) == written
    assert inserted(written, ROWS) == written
    with pytest.raises(ValueError, match=r"chaos.* missing"):
        inserted("a\nb\n", ROWS)


@pytest.mark.parametrize("passed", [True, False])
def test_pytest_shows_and_keeps_the_rows_even_if_a_test_failed(tmp_path, monkeypatch, passed):
    place = tmp_path / "rows.json"
    monkeypatch.setenv("BERLIN_CHAOS_REPORT", str(place))
    report = SimpleNamespace(
        when="call", user_properties=[*map(properties, ROWS[:2])], duration=3.0, passed=passed
    )
    other = SimpleNamespace(when="teardown", user_properties=[properties(ROWS[1])])
    shown: list[str] = []
    reporter = SimpleNamespace(
        stats={"failed": [report], "": [other]},
        write_sep=lambda *_: None,
        write_line=shown.append,
    )
    pytest_terminal_summary(reporter)
    assert len(shown) == 3
    kept = load(place)
    assert [row.note for row in kept] == ["a" if passed else "FAILED; a"] * 2
    assert [row.took_s for row in kept] == [1.5, 1.5]
    assert [replace(row, took_s=0, day="", note="a") for row in kept] == [ROWS[0], ROWS[1]]


@pytest.mark.parametrize(
    "stats", [{}, {"passed": [SimpleNamespace(when="call", user_properties=[], passed=True)]}]
)
def test_without_rows_there_is_no_table(stats):
    pytest_terminal_summary(SimpleNamespace(stats=stats))
