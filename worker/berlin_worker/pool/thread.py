"""The thread in which the event loop runs, from entering the lifespan to leaving it."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any, Final

logger = logging.getLogger(__name__)

_CLEANUP_TIMEOUT_S: Final = 2.0

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


class LifespanError(Exception):
    """The lifespan could not be entered; the message is that of its exception, on one line."""


class LoopThread:
    """An event loop (uvloop if it is installed) in a daemon thread.

    ``on_crash(error)`` is called in the loop's thread if the lifespan, or the loop itself, ends
    without being asked to. ``on_exit()`` is called last of all.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        lifespan: Lifespan,
        *,
        on_crash: Callable[[BaseException], None],
        on_exit: Callable[[], None],
    ) -> None:
        self._lifespan = lifespan
        self._on_crash = on_crash
        self._on_exit = on_exit
        self._entered = False
        self._error: BaseException | None = None
        self._settled = threading.Event()
        self._exited = threading.Event()
        self._closing: asyncio.Event | None = None
        self._asked: float | None = None
        # A daemon: a task that blocks the loop must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="asyncio-pool", daemon=True)

    def start(self, poll: Callable[[], None]) -> None:
        """Return when the lifespan has been entered.

        ``poll`` is called about five times a second, and may raise an error to give up. Raises
        :class:`LifespanError`.
        """
        self._thread.start()
        while not self._settled.wait(0.2):
            poll()
        if self._error is not None:
            message = " ".join(str(self._error).split()) or repr(self._error)
            raise LifespanError(message) from self._error

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Run ``callback`` in the loop; nothing happens if the loop is gone."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    @property
    def silent_s(self) -> float:
        """Seconds since the oldest unanswered probe of the loop; each call sends a probe.

        Call it from one thread only.
        """
        if self._asked is None:
            self._asked = monotonic()
            self.call_soon(self._acknowledge)
        asked = self._asked
        return 0.0 if asked is None else monotonic() - asked

    def _acknowledge(self) -> None:
        self._asked = None

    def close(self) -> None:
        """Ask the loop to leave the lifespan and to end; see :attr:`exited`."""
        if self._closing is not None:
            self.call_soon(self._closing.set)

    @property
    def exited(self) -> bool:
        """Whether the loop is closed for good."""
        return self._exited.is_set()

    @property
    def implementation(self) -> str:
        """The module of the loop: ``uvloop`` or ``asyncio.unix_events``."""
        return type(self.loop).__module__

    def _run(self) -> None:
        try:
            runner = asyncio.Runner(loop_factory=loop_factory())
            self.loop = runner.get_loop()
            self._run_until_complete(self.loop.create_task(self._serve()))
            # The runner would wait for ever for a task that ignores its cancellation.
            if self.loop.run_until_complete(_cancel_others()):
                runner.close()
        except BaseException as error:
            # _serve handles the errors of the lifespan: this one is of the loop itself.
            if self._closing is None or not self._closing.is_set():
                self._error = error
                self._on_crash(error)
            else:
                logger.exception("The event loop of the pool did not close properly")
        finally:
            self._exited.set()
            self._settled.set()
            self._on_exit()

    def _run_until_complete(self, serving: asyncio.Task[None]) -> None:
        while True:
            try:
                return self.loop.run_until_complete(serving)
            except BaseException as error:
                # asyncio raises SystemExit and KeyboardInterrupt of any asyncio task here.
                if serving.done():
                    raise
                logger.critical("A child of a task raised %r; the loop goes on", error)

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        try:
            async with self._lifespan():
                self._entered = True
                self._settled.set()
                await self._closing.wait()
        except BaseException as error:
            if not self._entered:
                self._error = error
            elif self._closing.is_set():
                logger.exception("The lifespan failed on its way out")
            else:
                self._on_crash(error)
                await self._closing.wait()  # tasks clean up until close() is called


async def _cancel_others() -> bool:
    """Cancel all other tasks of the loop; returns whether they have ended in time."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if not others:
        return True
    _, left = await asyncio.wait(others, timeout=_CLEANUP_TIMEOUT_S)
    if left:
        logger.error("Leaving while %d child tasks do not end", len(left))
    return not left


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes an event loop: of uvloop if it is installed, else asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415  # an extra
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
