"""What many ask for at the same moment goes out as one: no timer, no delay for one alone."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from berlin_worker.client.values import CLOSED
from berlin_worker.errors import ClientError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Hands to ``work`` what has gathered since its last batch came back.

    ``work`` answers each item in turn, by a value or by an ``Exception`` for the one who
    asked; what it raises itself goes to all of the batch.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        at_most: int,
    ) -> None:
        self._work = work
        self._at_most = at_most
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def ask(self, item: Item) -> Answer:
        """The answer to ``item``; raises ``ClientError`` once the client is closed."""
        if self._closed:
            raise ClientError(CLOSED)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="berlin-client-batch")
        return await answer

    async def aclose(self) -> None:
        """Stop; whoever still waits gets a ``ClientError``."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        _fail((answer for _, answer in self._waiting), ClientError(CLOSED))

    async def _run(self) -> None:
        while self._waiting:
            size = min(len(self._waiting), self._at_most)
            batch = [self._waiting.popleft() for _ in range(size)]
            # Those who were cancelled meanwhile no longer want an answer.
            batch = [(item, answer) for item, answer in batch if not answer.done()]
            answers = [answer for _, answer in batch]
            try:
                outcomes = await self._work([item for item, _ in batch]) if batch else []
            except asyncio.CancelledError:
                _fail(answers, ClientError(CLOSED))
                raise
            except Exception as error:  # noqa: BLE001  # goes to those who asked, whatever it is
                _fail(answers, error)
                continue
            for answer, outcome in zip(answers, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    _fail([answer], outcome)
                elif not answer.done():
                    answer.set_result(outcome)


def _fail(answers: Iterable["asyncio.Future[Answer]"], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
