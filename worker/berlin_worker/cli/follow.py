"""Show one job on stdout until it ends, the user leaves, or the reader closes the pipe."""

import asyncio
import contextlib
from typing import Any, Final

import click

from berlin_schemas import Cancelled, Event
from berlin_schemas.events import TERMINAL_TYPES
from berlin_worker.cli import no_worker
from berlin_worker.cli.errors import BROKEN_PIPE, FAILED, Problem
from berlin_worker.cli.interrupts import Interrupts
from berlin_worker.cli.output import print_err, printable
from berlin_worker.cli.raw_log import RawLog
from berlin_worker.cli.stdout import Stdout
from berlin_worker.cli.views import FinalView, JsonView, TextView, View, exit_code
from berlin_worker.client import AsyncClient, Stream
from berlin_worker.errors import ClientError, Unavailable

CANCEL_PATIENCE_S: Final = 5.0
"""Maximum wait for the end of a cancelled job."""
_PAGER_PATIENCE_S: Final = 0.1


def view_for(out: Stdout, *, as_json: bool, final: bool, reasoning: bool = False) -> View:
    """Return the view for the options; a pipe gets no reasoning."""
    if as_json:
        return JsonView()
    kind = FinalView if final else TextView
    dim = None
    if reasoning and out.is_terminal:
        context = click.get_current_context(silent=True)
        dim = context is None or context.color is not False
    return kind(is_terminal=out.is_terminal, encoding=out.encoding, dim_reasoning=dim)


async def follow(
    client: AsyncClient,
    stream: Stream,
    *,
    after: int = 0,
    as_json: bool,
    final: bool,
    cancel: bool,
    status: str = "unknown",
    reasoning: bool = False,
) -> int | None:
    """Show the events of ``stream`` with a ``seq`` beyond ``after``, and return the exit code.

    Returns ``None`` if the job has no event beyond ``after``. With ``cancel`` a user who leaves
    early cancels the job; without it the job goes on. ``status`` is that of the job beforehand.
    """
    async with contextlib.AsyncExitStack() as stack:
        log = await stack.enter_async_context(RawLog(stream.job_id)) if as_json else None
        interrupts = stack.enter_context(Interrupts())
        out = stack.enter_context(Stdout())
        if cancel:
            # Complete the submission first: it would clear a cancellation that came before its end.
            await stream.start()
        view = view_for(out, as_json=as_json, final=final, reasoning=reasoning)
        follower = Follower(stream, out, view, after=after, log=log)
        reading = asyncio.create_task(follower.read())
        leaving = asyncio.create_task(_wait_for_leave(interrupts, out))
        try:
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done() and not _cannot_write(reading):
                last = reading.result()
                return None if last is None else exit_code(last)
            code = await leaving if leaving.done() or out.gone.done() else FAILED
            unread = code == BROKEN_PIPE or _cannot_write(reading)
            await follower.leave(quietly=unread)
            if cancel:
                await _cancel(client, stream, reading, patient=not unread)
            elif not unread:
                print_err(farewell(stream.job_id, status, follower.seq, follower.go_on))
            if code == FAILED:
                reading.result()  # raises, for instance because the disk is full
        except Unavailable as error:
            raise Problem(str(error), hint=f"to continue later: {follower.go_on}") from error
        else:
            return code
        finally:
            reading.cancel()
            leaving.cancel()
            await asyncio.gather(reading, leaving, return_exceptions=True)
            stream.close()


class Follower:
    """Writes the events of one job as a view renders them."""

    def __init__(
        self, stream: Stream, out: Stdout, view: View, *, after: int, log: RawLog | None
    ) -> None:
        self._stream = stream
        self._log = log
        self._out = out
        self._view = view
        self._silent = False
        self._seq = after

    @property
    def seq(self) -> int:
        """The ``seq`` of the last event that was shown."""
        return self._seq

    @property
    def go_on(self) -> str:
        """The command that continues after the last event that was shown."""
        after = f" --after {self._seq}" if self._seq else ""
        return f"berlin tail {self._stream.job_id}{after}"

    async def read(self) -> Event | None:
        """Show all events, and return the last one."""
        last = None
        late = asyncio.create_task(no_worker.hint_if_late())
        try:
            while True:
                # All events that have arrived: one write for many events of a long log.
                events = await self._stream.batch()
                late.cancel()
                last = await self._show(events)
        except StopAsyncIteration:
            return last
        finally:
            late.cancel()
            await asyncio.gather(late, return_exceptions=True)

    async def leave(self, *, quietly: bool) -> None:
        """End the output. JSON lines continue to the end of the job, unless ``quietly``."""
        self._silent = quietly or not isinstance(self._view, JsonView)
        if quietly or not self._silent:
            return
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_PAGER_PATIENCE_S):  # the pager may accept nothing more
                await self._out.write(self._view.end().out)

    async def _show(self, events: list[Event]) -> Event:
        last = events[-1]
        written = await self._log.read(self._seq, last.seq) if self._log else {}
        data = b""
        for event in () if self._silent else events:
            shown = self._view.render(event, written.get(event.seq))
            data += shown.out
            if shown.notice:
                await self._out.write(data)
                data = b""
                print_err(printable(shown.notice), **_style(shown.notice))
        await self._out.write(data)
        self._seq = last.seq
        return last


def farewell(job_id: str, status: str, seq: int, go_on: str) -> str:
    """Return the notice for a user who stops following a job before its end (pure).

    ``status`` is that of the job when following began, ``seq`` the last event that was shown.
    """
    if status in TERMINAL_TYPES:
        return f"the job is {status}; for the rest of its events: {go_on}"
    if status == "unknown" and not seq:
        return f"job {job_id} is not known so far: submit it, or check its ID"
    return f"the job goes on: {go_on}"


async def _wait_for_leave(interrupts: Interrupts, out: Stdout) -> int:
    """Wait until the user leaves, and return the exit code for that."""
    signalled = asyncio.create_task(interrupts.wait())
    try:
        either: set[asyncio.Future[Any]] = {signalled, out.gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return signalled.result() if signalled.done() else BROKEN_PIPE
    finally:
        signalled.cancel()


def _cannot_write(reading: asyncio.Task[Any]) -> bool:
    return reading.done() and isinstance(reading.exception(), OSError)


async def _cancel(
    client: AsyncClient, stream: Stream, reading: asyncio.Task[Event | None], *, patient: bool
) -> None:
    job_id = stream.job_id
    try:
        await client.cancel(job_id, "the submitter has left")
        if not patient:
            return
        async with asyncio.timeout(CANCEL_PATIENCE_S):
            event = await asyncio.shield(reading)
    except TimeoutError:
        print_err(f"job {job_id} is marked as cancelled, and ends when a worker takes note of it")
    except ClientError as error:
        print_err(f"berlin: job {job_id} could not be cancelled, and may go on: {error}", fg="red")
    else:
        if isinstance(event, Cancelled):
            print_err(f"job {job_id} is cancelled", dim=True)
        elif event is not None:
            print_err(f"job {job_id} had ended before: {event.type}", dim=True)


def _style(notice: str) -> dict[str, Any]:
    return {"fg": "red"} if notice.startswith("berlin:") else {"dim": True}
