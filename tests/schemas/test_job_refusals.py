"""Jobs that the contract refuses, and the message of each error."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import InvalidJob, PromptJob
from berlin_schemas.jobs import parse_job
from tests.support.prompt_jobs import CONTENT, ID, SECRET, job, nested, refusal

pytestmark = pytest.mark.unit


def said(content: object) -> dict[str, Any]:
    return job(messages=[{"role": "user", "content": content}])


@given(st.text(min_size=1).filter(lambda name: name not in PromptJob.model_fields))
def test_any_unknown_top_level_field_is_refused(name):
    with pytest.raises(InvalidJob):
        parse_job(job(**{name: None}), ID)


def test_misspelt_field_is_named():
    assert refusal(job(idle_timeout=3)) == "idle_timeout: no such field"


@pytest.mark.parametrize(
    ("obj", "message"),
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
def test_refusal_says_what_is_wrong_and_where(obj, message):
    assert refusal(obj) == message


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
def test_duration_is_more_than_zero_and_at_most_a_week(field, value):
    assert refusal(job(**{field: value})).startswith(f"{field}: must be")
    assert parse_job(job(**{field: 604800}), ID)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["deadline_s", "options", "metadata"])
def test_nan_and_infinity_are_refused_wherever_they_stand(place, number):
    value = number if place == "deadline_s" else {"deep": [number]}
    assert refusal(job(**{place: value})) == "the job object holds what JSON cannot, such as NaN"


@pytest.mark.parametrize("half", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(half):
    message = "the job object holds half a surrogate pair: no UTF-8"
    assert refusal(job(messages=[{"role": "user", "content": half}])) == message
    assert refusal(job(metadata={half: 1})) == message
    assert refusal(job(**{half: 1})) == message


@pytest.mark.parametrize(
    "job_id", ["", "x" * 129, "a\n", "\na", "a b", "a:b", "{a}", "ä", "٣", "a\0", "a/b", "*"]
)
def test_job_id_outside_the_alphabet_is_refused_and_not_repeated(job_id):
    message = refusal(job(job_id=job_id), job_id)
    assert message == "job_id: must be 1 to 128 characters of A-Z a-z 0-9 _ -"


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
def test_refusal_never_repeats_what_the_job_holds(obj, caplog):
    with caplog.at_level(logging.DEBUG):
        message = refusal(obj)
    assert SECRET not in message
    assert len(message) < 300
    assert not caplog.records
