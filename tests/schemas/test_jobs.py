"""The job object: what is taken, what is refused, and what a refusal never tells."""

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import InvalidJob, PromptJob
from berlin_schemas.jobs import MAX_JOB_BYTES, dump_job, parse_job

pytestmark = pytest.mark.unit

ID = "0b7e2c1a-9f6d-4e5b-8a3c-2d1f0e9c8b7a"
CONTENT = "must be a string, an array of parts, or null beside tool_calls"
HELLO = [{"role": "user", "content": "Hello"}]
SECRET = "my-secret-prompt"

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


def job(**fields: object) -> dict[str, Any]:
    return {"messages": HELLO, **fields}


def said(content: object) -> dict[str, Any]:
    return job(messages=[{"role": "user", "content": content}])


def refusal(obj: object, job_id: str = ID) -> str:
    with pytest.raises(InvalidJob) as refused:
        parse_job(obj, job_id)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return str(refused.value)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


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


@given(st.text(min_size=1).filter(lambda name: name not in PromptJob.model_fields))
def test_any_unknown_top_level_field_is_refused(name):
    with pytest.raises(InvalidJob):
        parse_job(job(**{name: None}), ID)


def test_content_may_be_missing_or_null_beside_tool_calls():
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    for message in (
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "assistant", "tool_calls": calls},
    ):
        parsed, _ = parse_job(job(messages=[message]), ID)
        assert parsed.messages[0].content is None
        assert parsed.messages[0].model_dump(exclude_unset=True) == message


def test_a_misspelt_field_is_named():
    assert refusal(job(idle_timeout=3)) == "idle_timeout: no such field"


def test_further_fields_of_a_message_are_kept_for_the_provider():
    parsed, _ = parse_job(job(messages=[{**HELLO[0], "name": "Ada"}]), ID)
    assert parsed.messages[0].model_dump() == {**HELLO[0], "name": "Ada"}


@pytest.mark.parametrize(
    ("obj", "told"),
    [
        (None, "a job is a JSON object, not null"),
        (True, "a job is a JSON object, not a boolean"),
        (1, "a job is a JSON object, not a number"),
        ("text", "a job is a JSON object, not a string"),
        ([], "a job is a JSON object, not an array"),
        ({}, "messages: is missing"),
        (job(messages=[]), "messages: must not be empty"),
        (job(messages={}), "messages: must be an array"),
        (job(messages=["Hello"]), "messages.0: must be an object"),
        (job(messages=[{"role": "user"}]), "messages.0.content: is missing"),
        (said(None), "messages.0.content: is missing"),
        (
            job(messages=[{"role": "assistant", "content": None, "tool_calls": []}]),
            "messages.0.content: is missing",
        ),
        (said(5), f"messages.0.content: {CONTENT}"),
        (said({}), f"messages.0.content: {CONTENT}"),
        (said([]), "messages.0.content: must not be empty"),
        (said(["text"]), "messages.0.content.0: must be an object"),
        (said([{"text": "Hi"}]), "messages.0.content.0.type: is missing"),
        (said([{"type": ""}]), "messages.0.content.0.type: must not be empty"),
        (said([{"type": 1}]), "messages.0.content.0.type: must be a valid string"),
        (job(fallbacks={}), "fallbacks: must be an array"),
        (job(fallbacks=[{"model": "m"}]), "fallbacks.0.provider: is missing"),
        (job(fallbacks=[{"provider": "p"}]), "fallbacks.0.model: is missing"),
        (
            job(fallbacks=[{"provider": "p", "model": "m", "proxy": None}]),
            "fallbacks.0.proxy: no such field",
        ),
        (
            job(messages=[{"role": "boss", "content": ""}]),
            "messages.0.role: must be 'system', 'developer', 'user', 'assistant' or 'tool'",
        ),
        (job(options=[]), "options: must be an object"),
        (job(on_interrupt="stop"), "on_interrupt: must be 'restart', 'fail' or 'keep'"),
        (job(job_id="other"), "job_id is not the task ID of the message that carries the job"),
        (
            job(a=1, b=2, c=3, d=4),
            "a: no such field; b: no such field; c: no such field; and 1 more",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(obj, told):
    assert refusal(obj) == told


@pytest.mark.parametrize(
    "fields",
    [
        {"deadline_s": "5"},
        {"deadline_s": True},
        {"idle_timeout_s": None},
        {"model": 4},
        {"model": ""},
        {"model": "m" * 129},
        {"provider": None},
        {"tenant": 7},
        {"tenant": ""},
        {"proxy": "p" * 2049},
        {"metadata": "text"},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": ({"role": "user", "content": "Hello"},)},
        {"job_id": 5},
    ],
    ids=repr,
)
def test_types_are_never_coerced_and_lengths_are_bounded(fields):
    assert refusal(job(**fields)).startswith(next(iter(fields)))


@pytest.mark.parametrize("field", ["deadline_s", "first_chunk_timeout_s", "idle_timeout_s"])
@pytest.mark.parametrize("value", [0, -1, -0.0, 604801, 10**400])
def test_a_duration_is_more_than_zero_and_at_most_a_week(field, value):
    assert refusal(job(**{field: value})).startswith(f"{field}: must be")
    assert parse_job(job(**{field: 604800}), ID)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["deadline_s", "options", "metadata"])
def test_nan_and_infinity_are_refused_wherever_they_stand(place, number):
    value = number if place == "deadline_s" else {"deep": [number]}
    assert refusal(job(**{place: value})) == "the job object holds what JSON cannot, such as NaN"


@pytest.mark.parametrize("half", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(half):
    told = "the job object holds half a surrogate pair: no UTF-8"
    assert refusal(job(messages=[{"role": "user", "content": half}])) == told
    assert refusal(job(metadata={half: 1})) == told
    assert refusal(job(**{half: 1})) == told


@pytest.mark.parametrize("depth", [300, 900, 5_000, 100_000])
def test_deep_nesting_is_refused_and_never_a_recursion_error(depth):
    assert refusal(job(metadata=nested(depth))).endswith("is nested too deeply")
    assert refusal(job(messages=nested(depth))) in {
        "messages: must be an array",
        "the job object is nested too deeply",
    }


@pytest.mark.parametrize("letter", ["x", "ß", "€", "😀"])
def test_a_job_of_exactly_one_mebibyte_is_taken_and_one_byte_more_is_not(letter):
    empty = len(dump_job(job(options={"pad": ""})))
    count, rest = divmod(MAX_JOB_BYTES - empty, len(letter.encode()))
    pad = letter * count + "x" * rest
    _, data = parse_job(job(options={"pad": pad}), ID)
    assert len(data) == MAX_JOB_BYTES == 1048576
    assert refusal(job(options={"pad": pad + "x"})) == (
        "the job object has 1048577 bytes; at most 1048576 are taken"
    )


@pytest.mark.parametrize("limit", [100, 1024, 2 * MAX_JOB_BYTES])
def test_the_limit_of_a_job_is_the_operators(limit):
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
def test_a_job_may_repeat_its_id(job_id):
    assert parse_job(job(job_id=job_id), job_id)[0].job_id == job_id


@pytest.mark.parametrize(
    "job_id", ["", "x" * 129, "a\n", "\na", "a b", "a:b", "{a}", "ä", "٣", "a\0", "a/b", "*"]
)
def test_a_job_id_outside_the_alphabet_is_refused_and_not_repeated(job_id):
    told = refusal(job(job_id=job_id), job_id)
    assert told == "job_id: must be 1 to 128 characters of A-Z a-z 0-9 _ -"


@pytest.mark.parametrize(
    "obj",
    [
        SECRET,
        job(model=[SECRET]),
        job(messages=SECRET),
        job(messages=[SECRET]),
        job(messages=[{"role": SECRET, "content": SECRET}]),
        job(messages=[{"role": "user", "content": [SECRET]}]),
        job(messages=[{"role": "user", "content": SECRET + "\ud800"}]),
        job(on_interrupt=SECRET),
        job(proxy=[SECRET]),
        job(job_id=SECRET),
        job(job_id=SECRET + "\n"),
        job(options={SECRET: object()}),
        job(options=SECRET),
        job(metadata={SECRET: nested(300)}),
        job(metadata=SECRET, deadline_s=SECRET),
        job(**{f"please answer: {SECRET}": 1}),
        job(metadata={"pad": SECRET * 100_000}),
    ],
)
def test_a_refusal_never_repeats_what_the_job_holds(obj, caplog):
    with caplog.at_level(logging.DEBUG):
        told = refusal(obj)
    assert SECRET not in told
    assert len(told) < 300
    assert not caplog.records


def test_a_job_does_not_change_once_it_is_read():
    parsed, _ = parse_job(job(), ID)
    with pytest.raises(ValueError, match="frozen"):
        parsed.model = "other"
