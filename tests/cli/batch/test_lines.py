"""Lines of a batch: which job a line becomes, and what is wrong with a bad line."""

import io

import pytest

from berlin_worker.cli.batch.lines import Line, read_lines
from tests.support.batch import parse, problem_of

pytestmark = pytest.mark.unit


def test_line_is_a_string_a_prompt_or_a_job() -> None:
    for text in (
        '"Hello"',
        '{"prompt": "Hello"}',
        '{"messages": [{"role": "user", "content": "Hello"}]}',
    ):
        [found] = parse(text)
        assert isinstance(found, Line)
        assert found.job == {"messages": [{"role": "user", "content": "Hello"}]}


def test_blank_lines_count_but_are_not_sent() -> None:
    found = parse("", '"a"', "  \t", '"b"')
    assert [line.number for line in found] == [2, 4]


def test_byte_order_mark_is_removed_from_the_first_line() -> None:
    [found] = read_lines([b'\xef\xbb\xbf"a"\r\n'], "key", {})
    assert isinstance(found, Line)


def test_options_of_the_command_are_defaults() -> None:
    [found] = parse(
        '{"prompt": "x", "model": "b", "options": {"temperature": 1}}',
        model="a",
        system="Be brief.",
        options={"temperature": 0, "max_tokens": 5},
        tenant=None,
    )
    assert isinstance(found, Line)
    assert found.job == {
        "model": "b",
        "options": {"temperature": 1, "max_tokens": 5},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "x"},
        ],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        ("3", "neither an object nor a string"),
        ("{}", "neither prompt nor messages"),
        ('""', "prompt: must be a string that is not empty"),
        ('{"prompt": 3}', "prompt: must be a string"),
        ('{"prompt": "x", "messages": []}', "exclude each other"),
        ('{"prompt": "x", "modle": "y"}', "modle: no such field"),
        ('{"prompt": "x", "id": [1]}', "id: must be"),
        ('{"prompt": "x", "job_id": "../x"}', "job_id: must be"),
        ('{"prompt": "\\ud800"}', "surrogate"),
        ("[" * 100_000, ""),
    ],
)
def test_bad_line_has_a_reason(text: str, expected: str) -> None:
    assert expected in problem_of(text)


def test_line_has_the_same_id_in_the_same_run_only() -> None:
    [a, twin] = parse('"x"', '"x"')
    assert parse('"x"') == [a]
    assert parse('  {"prompt" : "x"} ')[0].job_id == a.job_id
    others = [twin, *parse('"y"'), *parse('"x"', run_key="other"), *parse('"x"', model="m")]
    assert len({a.job_id, *(other.job_id for other in others)}) == 5


def test_own_job_id_of_a_line_is_kept() -> None:
    [found] = parse('{"prompt": "x", "job_id": "mine", "id": 7}')
    assert isinstance(found, Line)
    assert (found.job_id, found.label) == ("mine", 7)


def test_lines_of_one_payload_have_ids_of_their_own() -> None:
    def ids(text: str) -> list[str | None]:
        return [line.job_id for line in read_lines(io.BytesIO(text.encode()), "run", {})]

    [a, b, c] = ids('"x"\n"y"\n"x"\n')
    assert len({a, b, c}) == 3
    assert ids('"new"\n"x"\n"x"\n"y"\n')[1:] == [a, c, b]
