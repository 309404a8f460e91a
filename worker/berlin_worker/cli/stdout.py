"""Standard output, written from an event loop without blocking it."""

import asyncio
import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, Final, Self

from berlin_worker.cli.output import encoding_of

_PIECE_BYTES: Final = 4096
"""A pipe that is writable takes this much without blocking (PIPE_BUF)."""


class Stdout:
    """Standard output without a buffer of ours, written from an event loop.

    A reader that is slow (a pager) does not block the loop, so that Ctrl-C still works;
    one that has gone shows at once where stdout is a pipe.
    """

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or _stdout()
        self._fd = _file_descriptor(self._stream)
        mode = os.fstat(self._fd).st_mode if self._fd is not None else 0
        self._is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self.is_terminal = self._fd is not None and os.isatty(self._fd)
        self.encoding = encoding_of(sys.stdout)
        """What text is encoded in; events in JSON are UTF-8 always."""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the reader of the pipe has gone."""

    def __enter__(self) -> Self:
        if self._fd is not None and self._is_pipe and sys.platform == "linux":
            # The write end of a pipe never has anything to read: only its end wakes us.
            asyncio.get_running_loop().add_reader(self._fd, self._reader_has_gone)
        return self

    def __exit__(self, *error: object) -> None:
        if self._fd is not None and self._is_pipe and sys.platform == "linux":
            asyncio.get_running_loop().remove_reader(self._fd)
        if self.gone.done():
            self._discard()

    async def write(self, data: bytes) -> None:
        """Write and flush; raises ``BrokenPipeError`` where nobody reads any more."""
        try:
            if self._fd is None:
                self._stream.write(data)
                self._stream.flush()
                return
            rest = memoryview(data)
            while rest:
                if self._is_pipe or self.is_terminal:
                    await _writable(self._fd)
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self._fd, rest[:_PIECE_BYTES]) :]
        except BrokenPipeError:
            self._reader_has_gone()
            raise

    def _reader_has_gone(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        if self._fd is not None and sys.platform == "linux":
            asyncio.get_running_loop().remove_reader(self._fd)

    def _discard(self) -> None:
        # What the interpreter flushes at its end must not meet the broken pipe again.
        if self._fd is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._fd)
            os.close(nowhere)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_writer(fd, ready.set)
    except PermissionError:  # what cannot be waited for never blocks
        return
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


def _stdout() -> BinaryIO:
    # Python has no stdout where the caller has closed it.
    return sys.stdout.buffer if sys.stdout else Path(os.devnull).open("wb")


def _file_descriptor(stream: BinaryIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # in tests, or stdout is closed
        return None
