"""Each long test is among the first of a part. All tests run, the others in their order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.schedule import LONGEST, groups, spread
from tests.support.workers import ROOT

pytestmark = pytest.mark.unit


@given(st.integers(0, 40), st.lists(st.integers(0, 39), unique=True), st.integers(1, 5))
def test_all_tests_are_there_and_the_others_keep_their_order(
    count: int, long: list[int], processes: int
) -> None:
    first = [[test] for test in long if test < count]
    order = spread(range(count), first, processes)
    assert sorted(order) == [*range(count)]
    others = [test for test in order if [test] not in first]
    assert others == sorted(others)


def test_groups_are_dealt_to_the_parts_with_which_the_processes_begin() -> None:
    order = spread([*"abcdefghij"], [["j", "i"], ["h"], ["g"], ["f"]], 3)
    assert order == [*"jif", *"hab", *"gcde"]


def test_part_holds_more_than_its_share_if_its_groups_do() -> None:
    assert spread([*"abcd"], [["a", "b", "c"]], 2) == [*"abcd"]


def test_files_come_in_the_order_of_the_list() -> None:
    paths = {"x": "tests/a.py", "l": LONGEST[1], "m": LONGEST[0], "n": LONGEST[1]}
    assert groups([*"xlmn"], paths.__getitem__) == [["m"], ["l", "n"]]


@pytest.mark.parametrize("path", LONGEST)
def test_file_of_the_list_exists(path: str) -> None:
    assert (ROOT / path).is_file()
