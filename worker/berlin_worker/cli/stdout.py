"""Standard output, written from an event loop without blocking it."""

import asyncio
import contextlib
import errno
import os
import select
import stat
import sys
from pathlib import Path
from typing import BinaryIO, Final, Self

from berlin_worker.cli.output import discard, encoding_of

_PIECE_BYTES: Final = 4096
"""A writable pipe accepts this much without blocking (PIPE_BUF)."""


class Stdout:
    """Standard output without a buffer, written from an event loop.

    A slow reader, such as a pager, does not block the loop, so that Ctrl-C still works. If stdout
    is a pipe or a socket, the end of its reader is noticed as soon as the kernel knows of it: at
    once, except for TCP. The end of a terminal is a signal, SIGHUP.
    """

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or _stdout()
        self._fd = _file_descriptor(self._stream)
        mode = os.fstat(self._fd).st_mode if self._fd is not None else 0
        self._is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self.is_terminal = self._fd is not None and os.isatty(self._fd)
        self.encoding = encoding_of(sys.stdout)
        """Encoding of text. JSON is always UTF-8."""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the reader has closed the pipe."""
        self._unwatch = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._fd is not None and self._is_pipe and sys.platform == "linux":
            # Without an event an epoll reports only EPOLLERR and EPOLLHUP: nobody can read any
            # more. A socket is also readable after data, or if only its other direction has ended.
            closed = self._unwatch.enter_context(select.epoll())
            closed.register(self._fd, 0)
            loop = asyncio.get_running_loop()
            loop.add_reader(closed.fileno(), self._reader_closed)
            self._unwatch.callback(loop.remove_reader, closed.fileno())
        return self

    def __exit__(self, *error: object) -> None:
        self._unwatch.close()
        if self.gone.done():
            self._discard()

    async def write(self, data: bytes) -> None:
        """Write and flush. Raises ``BrokenPipeError`` if the reader has closed the pipe."""
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
        except ConnectionError as error:  # a socket may also be reset
            self._reader_closed()
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error

    def _reader_closed(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        self._unwatch.close()

    def _discard(self) -> None:
        # The interpreter flushes stdout at exit, which must not fail on the broken pipe.
        if self._fd is not None:
            discard(self._fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_writer(fd, ready.set)
    except PermissionError:  # epoll refuses regular files, which never block
        return
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


def _stdout() -> BinaryIO:
    # sys.stdout is None if the caller has closed it.
    return sys.stdout.buffer if sys.stdout else Path(os.devnull).open("wb")


def _file_descriptor(stream: BinaryIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # replaced by a test, or closed
        return None
