"""The provider that repeats the last message of the user."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Report
from berlin_worker.providers.echo import EchoProvider
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit

SERVICES: Any = SimpleNamespace(settings=Settings.from_env({"WORKER_MAX_CHUNKS": "1000"}))


def job(content: str = "Hello", **options: Any) -> PromptJob:
    return PromptJob(messages=[{"role": "user", "content": content}], options=options)


async def read(job: PromptJob, report: Report | None = None) -> list[list[str]]:
    return [deltas async for deltas in EchoProvider(SERVICES).stream(job, report or Report())]


async def test_words_are_sent_one_by_one_with_their_whitespace() -> None:
    report = Report()
    assert await read(job("  one two\n\nthree "), report) == [
        ["  "],
        ["one "],
        ["two\n\n"],
        ["three "],
    ]
    assert report.usage == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    assert report.finish_reason == "stop"


@given(text=st.text(st.characters(exclude_categories=["Cs"])), repeat=st.integers(1, 3))
async def test_joined_deltas_are_the_message(text: str, repeat: int) -> None:
    found = await read(job(text, repeat=repeat))
    assert "".join(delta for deltas in found for delta in deltas) == text * repeat
    assert all(delta for deltas in found for delta in deltas)


async def test_last_user_message_is_echoed() -> None:
    roles = [("user", "first"), ("user", "second"), ("assistant", "third")]
    messages = [{"role": role, "content": content} for role, content in roles]
    assert await read(PromptJob(messages=messages)) == [["second"]]


async def test_last_message_is_echoed_if_no_user_message_exists() -> None:
    assert await read(PromptJob(messages=[{"role": "system", "content": "rules"}])) == [["rules"]]


async def test_delay_changes_nothing_of_the_text() -> None:
    assert await read(job("a b", delay_s=0.001)) == [["a "], ["b"]]


@pytest.mark.parametrize("options", [{}, {"delay_s": 0}, {"delay_s": 1.5, "repeat": 2}])
def test_known_options_pass(options: dict[str, Any]) -> None:
    EchoProvider(SERVICES).check(job(**options))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("volume", 1),
        ("delay_s", "1"),
        ("delay_s", -1),
        ("delay_s", float("nan")),
        ("delay_s", float("inf")),
        ("delay_s", 10**400),
        ("delay_s", True),
        ("repeat", 0),
        ("repeat", 1.0),
        ("repeat", True),
        ("repeat", None),
    ],
)
def test_unknown_options_are_an_invalid_job_that_names_them(name: str, value: Any) -> None:
    with pytest.raises(JobError, match=name) as caught:
        EchoProvider(SERVICES).check(job(**{name: value}))
    assert caught.value.code is ErrorCode.INVALID_JOB


def test_echo_without_end_is_refused() -> None:
    with pytest.raises(JobError, match="WORKER_MAX_CHUNKS"):
        EchoProvider(SERVICES).check(job("one two", repeat=501))
