"""The Berlin provider of the tests: jobs for it, and readers of its replies."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web

from berlin_schemas import PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers.base import Report, Services
from berlin_worker.providers.berlin.provider import BerlinProvider
from berlin_worker.providers.http import open_session
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings

SECRET_ACCOUNT = 'me&"you"@example.org'
SECRET_PASSWORD = "p/ss w+rd"
REPLY = "one two three four"

Make = Callable[..., BerlinProvider]


def job(prompt: str = "Hello", **fields: Any) -> PromptJob:
    return PromptJob(messages=[{"role": "user", "content": prompt}], **fields)


async def read(
    provider: BerlinProvider, prompt: str = "Hello", report: Report | None = None, **fields: Any
) -> tuple[str, JobError | None]:
    """Return the text up to the end or the error, and the error."""
    text = ""
    try:
        async with aclosing(provider.stream(job(prompt, **fields), report or Report())) as stream:
            async for deltas in stream:
                assert deltas
                assert all(deltas)
                text += "".join(deltas)
    except JobError as error:
        return text, error
    return text, None


async def read_from(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> tuple[str, JobError | None]:
    """Return what the provider reads if ``handler`` answers the completion."""

    async def login(_: web.Request) -> web.Response:
        return web.json_response({"data": {"token": "a-token"}})

    app = web.Application()
    app.router.add_post("/api/login", login)
    app.router.add_post("/api/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        environ = {"BERLIN_URL": url, "BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "b"}
        settings = Settings.from_env(environ)
        async with open_session(settings) as session:
            return await read(BerlinProvider(Services(session, LocalTokens(), settings, {})))
    finally:
        await runner.cleanup()
