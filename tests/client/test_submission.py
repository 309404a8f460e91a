"""Jobs that a client makes of prompts, and addresses that it shows of URLs."""

from typing import Any

import pytest

from berlin_schemas import InvalidJob, Message, PromptJob
from berlin_worker.client.submission import prepare
from berlin_worker.config.addresses import address

pytestmark = pytest.mark.unit

HI = [{"role": "user", "content": "Hi"}]


def test_prompt_without_an_id_gets_a_new_one():
    assert prepare("Hi", None, {}).job_id != prepare("Hi", None, {}).job_id


def test_id_that_a_job_carries_is_used():
    assert prepare({"messages": HI, "job_id": "mine"}, None, {}).job_id == "mine"
    assert prepare({"messages": HI, "job_id": "mine"}, "mine", {}).job_id == "mine"


def test_fields_win_over_those_of_the_job():
    job = PromptJob(messages=[Message(role="user", content="Hi")], model="m-1", tenant="t")
    assert prepare(job, "j", {"model": "m-2"}).job == {
        "messages": HI,
        "model": "m-2",
        "tenant": "t",
    }


def test_messages_may_be_values_of_the_contract():
    messages = [Message(role="user", content="Hi"), {"role": "assistant", "content": "Yes?"}]
    assert prepare(messages, None, {}).job["messages"] == [
        *HI,
        {"role": "assistant", "content": "Yes?"},
    ]


def test_job_of_the_caller_is_left_as_it_is():
    job = {"messages": HI}
    prepare(job, None, {"model": "m-2"})
    assert job == {"messages": HI}


def test_id_that_contradicts_the_job_is_refused():
    with pytest.raises(InvalidJob, match="job_id"):
        prepare({"messages": HI, "job_id": "one"}, "two", {})


def _deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [150, 400, 600, 5_000])
@pytest.mark.parametrize(
    "place",
    [
        lambda value: value,
        lambda value: {"messages": value},
        lambda value: {"messages": HI, "fallbacks": value},
        lambda value: [Message(role="user", content="Hi", z=value)],
        lambda value: PromptJob(messages=[Message(role="user", content="Hi", z=value)]),
    ],
)
def test_deep_nesting_is_an_invalid_job(depth, place):
    prompt = place(_deep(depth))
    with pytest.raises(InvalidJob):
        prepare(prompt, None, {})
    with pytest.raises(InvalidJob):
        prepare("Hi", None, {"messages": prompt})


@pytest.mark.parametrize("job_id", ["", "a:b", "x" * 129, 7, "é"])
def test_id_that_breaks_the_pattern_is_refused(job_id):
    with pytest.raises(InvalidJob, match="job ID"):
        prepare("Hi", job_id, {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user:pw@host:6379/0?password=pw", "redis://host:6379/0"),
        ("rediss://:p@ss/w:rd@host:6379", "rediss://host:6379"),
        ("sentinel://:pw@a:1;sentinel://:pw@b:2", "sentinel://a:1;sentinel://b:2"),
        ("amqp://user:pw@host:5672//", "amqp://host:5672//"),
        ("redis://:p?w@host:6379/0", "redis://"),
        ("redis://user:pw@host:6379/0?password=p@w", "redis://"),
        ("user:pw@host", "host"),
    ],
)
def test_address_holds_no_secret(url, shown):
    assert address(url) == shown
