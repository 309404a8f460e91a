"""Foreign code at work, such that it cannot keep whoever waits for it.

asyncio cannot end a coroutine: it can only ask. One that swallows the cancellation, or hangs
while it cleans up, is left to itself as a stray, and its caller goes on.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

logger = logging.getLogger(__name__)

CANCEL_GRACE_S: Final = 2.0
"""How long work that was cancelled may take to end."""

abandoned_tasks: Final[set[asyncio.Task[BaseException | None]]] = set()
"""What has not ended when it had to, in this process, for as long as it goes on."""


class CancelledItself(Exception):
    """The work has raised ``CancelledError``, and nobody had told it to stop."""


async def run_abandonable(
    name: str, work: Coroutine[Any, Any, None], *, on_cancel: Callable[[], None]
) -> None:
    """Do ``work`` in a task of its own; raises what it raises, :class:`CancelledItself` for a
    cancellation of its own: to whoever waits it would look like one from outside.

    A cancellation is passed on to it, after ``on_cancel``, and raised within ``CANCEL_GRACE_S``,
    however the work has answered it.
    """
    task = asyncio.create_task(_outcome(work), name=name)
    try:
        await _ended(task)
    except asyncio.CancelledError:
        on_cancel()
        task.cancel()
        if not await _ends(task, CANCEL_GRACE_S):
            abandoned_tasks.add(task)
            task.add_done_callback(abandoned_tasks.discard)
            logger.error(  # noqa: TRY400  # what there is to say
                "%s has not ended %g s after it was told to: left to itself (%d so far)",
                *(name, CANCEL_GRACE_S, len(abandoned_tasks)),
            )
        raise
    error = task.result()
    try:
        if isinstance(error, asyncio.CancelledError):
            raise CancelledItself(name).with_traceback(error.__traceback__) from None
        if error is not None:
            raise error
    finally:
        del error  # or this frame and the traceback keep each other alive


async def _ended(task: asyncio.Task[Any]) -> None:
    # As asyncio.wait, which takes a kilobyte more for as long as it waits.
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(_: asyncio.Task[Any]) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(tell)
    await ended


async def _outcome(work: Coroutine[Any, Any, None]) -> BaseException | None:
    # A value: asyncio lets SystemExit and KeyboardInterrupt of a task out of its loop.
    try:
        await work
    except BaseException as error:  # noqa: BLE001  # raised again, where it is waited for
        return error
    return None


async def _ends(task: asyncio.Task[Any], within_s: float) -> bool:
    clock = asyncio.get_running_loop().time
    give_up = clock() + within_s
    while not task.done() and (left_s := give_up - clock()) > 0:
        try:
            await asyncio.wait({task}, timeout=left_s)
        except asyncio.CancelledError:
            continue  # whoever waits is being cancelled already, and will say so
    return task.done()
