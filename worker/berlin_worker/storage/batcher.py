"""Send what many callers request at the same moment together, without a timer or a delay."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_Waiting = tuple[Item, asyncio.Future[Answer]]


def _closed() -> Exception:
    return RuntimeError("this batcher is closed")


class Batcher(Generic[Item, Answer]):
    """Pass to ``work`` the items that have gathered since the last batch was answered.

    ``work`` returns an answer for each item, in order: a value, or an ``Exception`` for that caller
    alone. What ``work`` raises goes to all callers of the batch. ``closed`` makes the error for
    callers after :meth:`aclose`. With ``cancel_unwanted`` a batch is cancelled once no caller
    waits for any item; without it a batch always runs to its end.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        at_most: int,
        closed: Callable[[], Exception] = _closed,
        cancel_unwanted: bool = False,
    ) -> None:
        self._work = work
        self._at_most = at_most
        self._closed = closed
        self._cancel_unwanted = cancel_unwanted
        self._waiting: deque[_Waiting[Item, Answer]] = deque()
        self._callers = 0
        self._task: asyncio.Task[None] | None = None
        self._open = True

    async def ask(self, item: Item) -> Answer:
        """Return the answer to ``item``; raise its error, or that of the batch, or of ``closed``.

        If the caller is cancelled, the item may still be worked on.
        """
        if not self._open:
            raise self._closed()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        self._callers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="batcher")
        try:
            return await answer
        finally:
            self._callers -= 1
            if self._cancel_unwanted and not self._callers and self._task is not None:
                self._task.cancel()

    async def aclose(self) -> None:
        """Stop; callers that still wait get the error of ``closed``."""
        self._open = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(self._waiting)

    async def _run(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), self._at_most)
                taken = [self._waiting.popleft() for _ in range(size)]
                # A cancelled caller needs no answer.
                batch = [waiting for waiting in taken if not waiting[1].done()]
                if batch:
                    await self._answer(batch)
        finally:
            wanted = self._open and any(not answer.done() for _, answer in self._waiting)
            self._task = asyncio.create_task(self._run(), name="batcher") if wanted else None

    async def _answer(self, batch: list[_Waiting[Item, Answer]]) -> None:
        try:
            outcomes = await self._work([item for item, _ in batch])
        except asyncio.CancelledError:
            self._fail(batch)
            raise
        except Exception as error:  # noqa: BLE001  # each caller of the batch gets it
            outcomes = [error] * len(batch)
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            if answer.done():
                continue  # its caller was cancelled meanwhile
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    def _fail(self, batch: Iterable[_Waiting[Item, Answer]]) -> None:
        for _, answer in batch:
            if answer.done():
                continue
            if self._open:
                answer.cancel()
            else:
                answer.set_exception(self._closed())
