"""A TCP proxy in front of a server, which breaks the network on command.

    with TcpProxy.of(server.url) as proxy:
        url = proxy.url_of(server.url)      # the same URL, by way of the proxy
        proxy.blackhole()
        ...
        proxy.heal()

It runs in a thread of its own. Its methods may be called from any thread, and have taken effect
when they return.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, Self
from urllib.parse import urlsplit

_PIECE_BYTES = 64 * 1024

Mode = Literal["pass", "stall", "blackhole", "refuse"]


class TcpProxy:
    """Listens on a free loopback port, or at ``listen``, and forwards to ``host:port``.

    ``buffer_bytes`` is the size of the system's buffer for bytes of the server that the proxy has
    not read yet; by default it grows to megabytes.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        buffer_bytes: int | None = None,
    ) -> None:
        self._target = host, port
        self._listen = listen
        self._buffer_bytes = buffer_bytes
        self._mode: Mode = "pass"
        self._links: set[_Link] = set()
        self._opened: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._work, name="proxy", daemon=True)
        self.port = 0
        self.accepted = 0
        """Connections that were made so far."""

    @classmethod
    def of(cls, url: str, *, buffer_bytes: int | None = None) -> Self:
        """Return a proxy in front of the server that ``url`` names."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port, buffer_bytes=buffer_bytes)

    def url_of(self, url: str) -> str:
        """Return ``url`` with the address of the proxy in place of the server's."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login[0]}{login[1]}127.0.0.1:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """Connections that are open on the client's side."""
        return sum(not link.left for link in tuple(self._links))

    def cut(self) -> None:
        """Reset every connection, on both sides; the mode decides about new ones."""
        self._order(lambda: [link.abort() for link in tuple(self._links)])

    def stall(self) -> None:
        """Hold back all bytes, those of new connections too; :meth:`heal` lets them through."""
        self._set("stall")

    def blackhole(self) -> None:
        """Swallow all bytes, and the end of a connection too: both sides look half-open.

        New connections are accepted and get no answer. All connections of that time stay dead:
        :meth:`heal` helps only connections that are made after it.
        """
        self._set("blackhole")

    def refuse(self) -> None:
        """Reset every connection, and each new one at once."""
        self._set("refuse")
        self.cut()

    def heal(self) -> None:
        """Forward again."""
        self._set("pass")

    def lead_to(self, url: str) -> None:
        """Reset every connection; new ones go to what ``url`` names, as after a failover."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = parts.hostname, parts.port
        self.cut()

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop, self._stop = self._opened.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _set(self, mode: Mode) -> None:
        def apply() -> None:
            self._mode = mode
            for link in self._links:
                link.swallows = link.swallows or mode == "blackhole"
            if mode == "stall":
                self._flowing.clear()
            else:
                self._flowing.set()

        self._order(apply)

    def _order(self, what: Callable[[], object]) -> None:
        async def obey() -> None:
            what()

        asyncio.run_coroutine_threadsafe(obey(), self._loop).result()

    def _work(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        stop = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._accept, *self._listen, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._opened.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()
        for link in tuple(self._links):
            link.abort()
        while self._links:  # noqa: ASYNC110  # each goes as soon as its pumps have ended
            await asyncio.sleep(0.001)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(writer, swallows=self._mode == "blackhole")
        self._links.add(link)
        try:
            if self._mode == "refuse":
                return
            with contextlib.suppress(OSError):
                # The proxy connects to the server at once in each mode: in a stall or a black hole,
                # too, the server has a connection that waits.
                far_reader, far_writer = await self._connect()
                link.writers.append(far_writer)
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(link, reader, far_writer, client=True))
                    pumps.create_task(self._pump(link, far_reader, writer))
        finally:
            link.abort()
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._buffer_bytes is None:
            return await asyncio.open_connection(*self._target)
        far = socket.socket()
        try:
            # Before the connection is made: TCP agrees on its window then.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
            far.setblocking(False)
            await asyncio.get_running_loop().sock_connect(far, self._target)
            return await asyncio.open_connection(sock=far)
        except BaseException:
            far.close()
            raise

    async def _pump(
        self,
        link: "_Link",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        client: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while not link.aborted and (data := await reader.read(_PIECE_BYTES)):
                await self._flowing.wait()
                if not link.swallows:
                    writer.write(data)
                    await writer.drain()
        link.left = link.left or client
        await self._flowing.wait()
        if link.swallows and not link.aborted:
            await link.ended.wait()  # nothing reports the end of a half-open connection
        elif client or link.aborted:
            link.abort()
        else:
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()


class _Link:
    """One connection of a client, and the one to the server that serves it."""

    def __init__(self, writer: asyncio.StreamWriter, *, swallows: bool) -> None:
        self.writers = [writer]
        self.swallows = swallows
        self.aborted = self.left = False
        self.ended = asyncio.Event()

    def abort(self) -> None:
        """Reset both sides."""
        self.aborted = self.left = True
        self.ended.set()
        for writer in self.writers:
            writer.transport.abort()
