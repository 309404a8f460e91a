"""The job object: valid ones, and the limits of size, depth and metadata."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import InvalidJob
from berlin_schemas.documents import ADAPTERS, json_schema
from berlin_schemas.fingerprint import fingerprint
from berlin_schemas.jobs import MAX_JOB_BYTES, MAX_JOB_DEPTH, dump_job, parse_job
from tests.support.prompt_jobs import HELLO, ID, job, nested, refusal

pytestmark = pytest.mark.unit


text = st.text(st.characters(exclude_categories=["Cs"]))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=10,
)


seconds = st.floats(min_value=0.001, max_value=7 * 86400)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)


parts = st.builds(
    lambda fields, kind: {**fields, "type": kind},
    st.dictionaries(text, json_values, max_size=3),
    text.filter(bool),
)


VALID = jsonschema.Draft202012Validator(json_schema("job", ADAPTERS["job"]))

jobs = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
                    "content": text | st.lists(parts, min_size=1, max_size=3),
                },
                optional={"name": json_values, "tool_call_id": json_values},
            ),
            min_size=1,
        )
    },
    optional={
        "job_id": st.just(ID),
        "provider": names,
        "model": names,
        "options": st.dictionaries(text, json_values),
        "fallbacks": st.lists(
            st.fixed_dictionaries(
                {"provider": names, "model": names},
                optional={"options": st.dictionaries(text, json_values)},
            ),
            max_size=3,
        ),
        "proxy": st.none() | text,
        "deadline_s": seconds,
        "first_chunk_timeout_s": seconds,
        "idle_timeout_s": seconds,
        "on_interrupt": st.sampled_from(["restart", "fail", "keep"]),
        "tenant": st.none() | names,
        "metadata": st.dictionaries(text, json_values, max_size=5).filter(
            lambda metadata: len(json.dumps(metadata)) < 4096
        ),
    },
)


def test_messages_alone_make_a_job_with_the_defaults_of_the_contract():
    parsed, _ = parse_job(job(), ID)
    assert parsed.model_dump() == {
        "job_id": None,
        "provider": "berlin",
        "model": "gpt-3.5-turbo",
        "messages": HELLO,
        "options": {},
        "fallbacks": [],
        "proxy": None,
        "deadline_s": 600,
        "first_chunk_timeout_s": 60,
        "idle_timeout_s": 30,
        "on_interrupt": "restart",
        "tenant": None,
        "metadata": {},
    }


@given(jobs)
def test_every_valid_job_is_taken_and_its_bytes_are_the_job_again(obj):
    parsed, data = parse_job(obj, ID)
    assert json.loads(data) == obj
    assert parse_job(json.loads(data), ID) == (parsed, data)
    assert parsed.model_dump(exclude_unset=True) == obj


@given(jobs)
def test_every_valid_job_is_valid_by_its_schema(obj):
    VALID.validate(obj)


def test_content_may_be_missing_or_null_beside_tool_calls():
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    for message in (
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "assistant", "tool_calls": calls},
    ):
        parsed, _ = parse_job(job(messages=[message]), ID)
        assert parsed.messages[0].content is None
        assert parsed.messages[0].model_dump(exclude_unset=True) == message


def test_further_fields_of_a_message_are_kept_for_the_provider():
    parsed, _ = parse_job(job(messages=[{**HELLO[0], "name": "Ada"}]), ID)
    assert parsed.messages[0].model_dump() == {**HELLO[0], "name": "Ada"}


@pytest.mark.parametrize("depth", [300, 900, 5_000, 100_000])
def test_deep_nesting_is_refused_and_never_a_recursion_error(depth):
    assert refusal(job(metadata=nested(depth))).endswith("is nested too deeply")
    assert refusal(job(messages=nested(depth))) in {
        "messages: must be an array",
        "the job object is nested too deeply",
    }


def _lists(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# A field of a message, or of a part of one, is three (five) levels below the job object.
@pytest.mark.parametrize("value", [_lists, lambda depth: nested(depth - 1)])
@pytest.mark.parametrize(
    ("above", "place"),
    [
        (2, lambda value: {"options": {"o": value}}),
        (3, lambda value: {"messages": [{**HELLO[0], "z": value}]}),
        (5, lambda value: {"messages": [{"role": "user", "content": [{"type": "t", "z": value}]}]}),
    ],
)
def test_accepted_job_has_a_fingerprint_however_deep_it_is(value, above, place):
    deepest = job(**place(value(MAX_JOB_DEPTH - above)))
    assert len(fingerprint(parse_job(deepest, ID)[0].model_dump(mode="json"))) == 32
    for depth in (MAX_JOB_DEPTH + 1, 500, 950):
        assert refusal(job(**place(value(depth - above)))) == "the job object is nested too deeply"


def test_many_brackets_alone_are_not_deep():
    parse_job(job(options={"many": [{}, []] * 200}), ID)
    parse_job(job(messages=[{"role": "user", "content": "[{" * 200}]), ID)


@pytest.mark.parametrize("letter", ["x", "ß", "€", "😀"])
def test_job_of_exactly_one_mebibyte_is_taken_and_one_byte_more_is_not(letter):
    empty = len(dump_job(job(options={"pad": ""})))
    count, rest = divmod(MAX_JOB_BYTES - empty, len(letter.encode()))
    pad = letter * count + "x" * rest
    _, data = parse_job(job(options={"pad": pad}), ID)
    assert len(data) == MAX_JOB_BYTES == 1048576
    assert refusal(job(options={"pad": pad + "x"})) == (
        "the job object has 1048577 bytes; at most 1048576 are taken"
    )


@pytest.mark.parametrize("limit", [100, 1024, 2 * MAX_JOB_BYTES])
def test_limit_of_a_job_is_the_operators(limit):
    pad = "x" * (limit - len(dump_job(job(options={"pad": ""}))))
    fits = job(options={"pad": pad})
    assert len(parse_job(fits, ID, max_bytes=limit)[1]) == limit
    with pytest.raises(InvalidJob, match=f"has {limit} bytes; at most {limit - 1} are taken"):
        parse_job(fits, ID, max_bytes=limit - 1)


@pytest.mark.parametrize("letter", ["x", "ß", "€", "😀", "\n"])
def test_metadata_has_at_most_16_keys_and_4_kibibytes_of_json(letter):
    width = len(dump_job({"a": letter})) - len(dump_job({"a": ""}))
    count, rest = divmod(4096 - len(b'{"pad":""}'), width)
    pad = letter * count + "x" * rest
    parse_job(job(metadata={"pad": pad}), ID)
    assert refusal(job(metadata={"pad": pad + "x"})) == (
        "metadata: must have at most 4096 bytes as JSON"
    )
    parse_job(job(metadata=dict.fromkeys(map(str, range(16)))), ID)
    assert refusal(job(metadata=dict.fromkeys(map(str, range(17))))).startswith("metadata: ")


@pytest.mark.parametrize("job_id", ["a", "A-z_0", "-", "x" * 128])
def test_job_may_repeat_its_id(job_id):
    assert parse_job(job(job_id=job_id), job_id)[0].job_id == job_id


def test_job_does_not_change_once_it_is_read():
    parsed, _ = parse_job(job(), ID)
    with pytest.raises(ValueError, match="frozen"):
        parsed.model = "other"
