"""An upstream whose answers a test writes byte by byte: Berlin's, or another one."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from berlin_schemas import PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Provider, Report, Services
from berlin_worker.providers.berlin.provider import BerlinProvider
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings

LOGIN: Final = b'HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n{"data":{"token":"a-token"}}'

Answer = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]
"""Write the reply to one request with this body; either side may close the connection."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a provider made of one answer."""

    text: str
    error: JobError | None


def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection, as a process that dies or a firewall does."""
    opened: socket.socket = writer.get_extra_info("socket")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def _serving(complete: Answer, login: Answer | None) -> AsyncIterator[str]:
    """Yield the URL of a server: ``login`` answers logins, ``complete`` all other requests."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        # A handler that ends as cancelled is an error to asyncio's server.
        with contextlib.suppress(asyncio.CancelledError), contextlib.closing(writer):
            await answer(reader, writer)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line.partition(":")[2])
                    for line in head.splitlines()
                    if line.lower().startswith("content-length:")
                )
                body = await reader.readexactly(length)
                if "/api/login" not in head.splitlines()[0]:
                    await complete(writer, body)
                elif login is not None:
                    await login(writer, body)
                else:
                    writer.write(LOGIN)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


async def _read(provider: Provider, prompt: str, report: Report) -> Read:
    job = PromptJob(messages=[{"role": "user", "content": prompt}])
    text = ""
    try:
        async with contextlib.aclosing(provider.stream(job, report)) as stream:
            async for deltas in stream:
                assert deltas
                assert all(deltas)
                text += "".join(delta for delta in deltas if isinstance(delta, str))
    except JobError as error:
        return Read(text, error)
    return Read(text, None)


@contextlib.asynccontextmanager
async def raw_upstream(
    complete: Answer,
    login: Answer | None = None,
    *,
    kind: type[Provider] = BerlinProvider,
    **environ: str,
) -> AsyncIterator[Callable[..., Awaitable[Read]]]:
    """Yield a function that sends a prompt to ``complete`` and reads the answer by a provider."""
    async with _serving(complete, login) as url:
        settings = Settings.from_env(
            {
                "BERLIN_URL": url,
                "BERLIN_ACCOUNT": "account",
                "BERLIN_PASSWORD": "p4ssw0rd",
                "OPENAI_BASE_URL": url,
                **environ,
            }
        )
        async with open_session(settings) as session:
            services = Services(session, LocalTokens(), settings, {"OPENAI_BASE_URL": url})
            provider = kind(services)

            async def read(prompt: str = "Hello", report: Report | None = None) -> Read:
                return await _read(provider, prompt, report or Report())

            yield read
