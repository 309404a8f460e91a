"""Tests that every provider must pass, for packages that bring one.

    class TestMine(ProviderConformance):
        provider_class = MyProvider
        environ = {"MY_KEY": "x"}
        invalid_jobs = ({"options": {"unknown": 1}},)

A provider that needs an upstream overrides :meth:`ProviderConformance.opened` and starts a
stand-in there. pytest collects the subclass; nothing here imports pytest.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Final

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Provider, Report, Services
from berlin_worker.providers.deltas import Delta, ReasoningDelta, ToolCallDelta
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings

_HELLO: Final = [{"role": "user", "content": "one two three"}]
_CLOSE_S: Final = 5.0
"""Seconds in which a provider must stop after a request to stop."""
_ANSWER_S: Final = 60.0


@contextlib.asynccontextmanager
async def services(environ: Mapping[str, str]) -> AsyncIterator[Services]:
    """Yield the services that a worker gives to its providers; tokens are kept in memory."""
    settings = Settings.from_env(environ)
    async with open_session(settings) as http:
        yield Services(http, LocalTokens(), settings, environ)


class ProviderConformance:
    """The tests. Subclass it, and set the class variables of your provider."""

    provider_class: ClassVar[type[Provider]]
    environ: ClassVar[Mapping[str, str]] = {}
    """The environment that the provider reads, settings of the worker included."""
    job: ClassVar[Mapping[str, Any]] = {}
    """Fields of a job that the provider answers with at least one delta."""
    invalid_jobs: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Fields of jobs that ``check`` refuses."""
    failing_job: ClassVar[Mapping[str, Any] | None] = None
    """Fields of a job that ``check`` takes and the upstream fails."""

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Provider]:
        """Yield the provider, built as a worker builds it."""
        async with services(self.environ) as lent:
            yield type(self).provider_class(lent)

    def test_check_takes_a_valid_job(self) -> None:
        """``check`` returns nothing, and changes nothing."""

        async def work(provider: Provider) -> None:
            job = self._job(self.job)
            before = job.model_copy(deep=True)
            assert provider.check(job) is None  # type: ignore[func-returns-value]  # that is the test
            assert job == before, "check has changed the job"

        self._run(work)

    def test_check_refuses_invalid_jobs(self) -> None:
        """``check`` raises ``JobError`` with ``invalid_job`` and a message."""

        async def work(provider: Provider) -> None:
            for fields in self.invalid_jobs:
                refusal = None
                try:
                    provider.check(self._job(fields))
                except JobError as error:
                    refusal = error
                assert refusal is not None, f"check takes an invalid job: {fields}"
                assert refusal.code is ErrorCode.INVALID_JOB, f"{fields}: {refusal.code}"
                assert refusal.message, f"{fields}: the error has no message"
                assert not refusal.retryable, f"{fields}: a retry would not help"

        self._run(work)

    def test_stream_yields_lists_of_text(self) -> None:
        """Each item is a list of deltas that are not empty; the report fits the contract."""

        async def work(provider: Provider) -> None:
            deltas, report = await self._read(provider)
            assert deltas, "the provider yields nothing"
            _check_tool_calls(deltas)
            assert report.login_s >= 0
            assert isinstance(report.finish_reason, str)
            assert report.usage is None or isinstance(report.usage, dict)

        self._run(work)

    def test_streams_do_not_mix(self) -> None:
        """Several jobs at once, each with a report of its own."""

        async def work(provider: Provider) -> None:
            alone, _ = await self._read(provider)
            for deltas, _ in await asyncio.gather(*(self._read(provider) for _ in range(5))):
                assert bool(deltas) == bool(alone)

        self._run(work)

    def test_stream_closed_early_ends(self) -> None:
        """Closing the generator after its first deltas raises nothing and takes no time."""

        async def work(provider: Provider) -> None:
            stream = provider.stream(self._job(self.job), Report())
            async with asyncio.timeout(_ANSWER_S):
                assert await anext(stream, None), "the provider yields nothing"
            async with asyncio.timeout(_CLOSE_S):
                await stream.aclose()
            assert await anext(stream, None) is None

        self._run(work)

    def test_cancelled_stream_ends(self) -> None:
        """A cancellation is raised as ``CancelledError``, at any moment of the stream."""

        async def work(provider: Provider) -> None:
            for steps in (0, 1, 2, 5, 20):
                task = asyncio.create_task(self._read(provider))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                done, _ = await asyncio.wait({task}, timeout=_CLOSE_S)
                assert done, "the provider goes on after its cancellation"
                if not task.cancelled():
                    task.result()  # it had ended before

        self._run(work)

    def test_failure_is_a_job_error(self) -> None:
        """A failure of the upstream is raised as ``JobError``, with a message."""

        async def work(provider: Provider) -> None:
            if self.failing_job is None:
                return
            provider.check(self._job(self.failing_job))
            failure = None
            try:
                await self._read(provider, self.failing_job)
            except JobError as error:
                failure = error
            assert failure is not None, "the failing job has not failed"
            assert failure.message, "the error has no message"

        self._run(work)

    def _run(self, work: Callable[[Provider], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with self.opened() as provider:
                await work(provider)

        asyncio.run(main())

    async def _read(
        self, provider: Provider, fields: Mapping[str, Any] | None = None
    ) -> tuple[list[Delta], Report]:
        report = Report()
        deltas: list[Delta] = []
        stream = provider.stream(self._job(self.job if fields is None else fields), report)
        async with asyncio.timeout(_ANSWER_S), contextlib.aclosing(stream):
            async for read in stream:
                assert isinstance(read, list), f"not a list of deltas: {type(read).__name__}"
                for delta in read:
                    _check_delta(delta)
                deltas += read
        return deltas, report

    def _job(self, fields: Mapping[str, Any]) -> PromptJob:
        return PromptJob.model_validate({"messages": _HELLO, **fields})


def _check_delta(delta: Delta) -> None:
    match delta:
        case str(text) | ReasoningDelta(text):
            assert isinstance(text, str), f"no text: {type(text).__name__}"
            assert text, "an empty delta"
        case ToolCallDelta():
            assert delta.index >= 0, "the index of a tool call counts from 0"
            parts = (delta.arguments, delta.id, delta.name)
            assert any(parts), "an empty delta"
        case _:
            raise AssertionError(f"no delta: {type(delta).__name__}")


def _check_tool_calls(deltas: Sequence[Delta]) -> None:
    begun: set[int] = set()
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            named = delta.id is not None or delta.name is not None
            assert named is not (delta.index in begun), "id and name are in a call's first delta"
            begun.add(delta.index)
