"""Run third-party coroutines so that one that ignores cancellation cannot block its caller.

asyncio cannot end a coroutine: it can only request it. A coroutine that ignores the cancellation,
or hangs in its clean-up, is abandoned: it goes on in its own task, and its caller continues.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

logger = logging.getLogger(__name__)

CANCEL_GRACE_S: Final = 2.0
"""How long cancelled work may take to end."""

abandoned_tasks: Final[set[asyncio.Task[BaseException | None]]] = set()
"""The tasks of this process that were abandoned and have not ended yet."""


class CancelledItself(Exception):
    """The work has raised ``CancelledError`` although it was not cancelled."""


async def run_abandonable(
    name: str, work: Coroutine[Any, Any, None], *, on_cancel: Callable[[], None]
) -> None:
    """Run ``work`` in a task of its own, and raise what it raises.

    - :class:`CancelledItself` replaces a ``CancelledError`` of the work's own, which would look
      like a cancellation of the caller.
    - If the caller is cancelled, ``on_cancel`` is called and the work cancelled. The cancellation
      is raised within ``CANCEL_GRACE_S`` even if the work ignores it.
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
            logger.error(  # noqa: TRY400  # a traceback would show this module alone
                "%s has not ended within %g s of its cancellation: abandoned (%d so far)",
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
    # In place of asyncio.wait, which holds a kilobyte more while it waits.
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set_ended(_: asyncio.Task[Any]) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(set_ended)
    await ended


async def _outcome(work: Coroutine[Any, Any, None]) -> BaseException | None:
    # Returned: if a task raises SystemExit or KeyboardInterrupt, asyncio raises it from the loop.
    try:
        await work
    except BaseException as error:  # noqa: BLE001  # run_abandonable raises it again
        return error
    return None


async def _ends(task: asyncio.Task[Any], within_s: float) -> bool:
    clock = asyncio.get_running_loop().time
    give_up = clock() + within_s
    while not task.done() and (left_s := give_up - clock()) > 0:
        try:
            await asyncio.wait({task}, timeout=left_s)
        except asyncio.CancelledError:
            continue  # the caller is being cancelled already, and raises it
    return task.done()
