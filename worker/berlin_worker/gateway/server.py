"""Serves a gateway, and lets its streams finish at the end."""

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from berlin_worker.client import AsyncClient
from berlin_worker.errors import SettingsError
from berlin_worker.gateway.app import make_app
from berlin_worker.gateway.fleet import CachedFleet
from berlin_worker.gateway.gateway import Gateway
from berlin_worker.gateway.keys import Keys, WatchedKeys
from berlin_worker.gateway.model_providers import ModelProviders
from berlin_worker.gateway.origins import is_loopback
from berlin_worker.settings import Settings
from berlin_worker.telemetry.tracer import open_tracer

logger = logging.getLogger(__name__)

_CLOSE_S: Final = 5.0
_SECRET_BYTES: Final = 32


def open_gateway(settings: Settings, host: str, *, warn: Callable[[str], object]) -> Gateway:
    """Return a gateway that may listen on ``host``. Raises ``SettingsError`` if it may not."""
    keys = WatchedKeys(settings.gateway_keys) if settings.gateway_keys else Keys([])
    if not keys:
        if not is_loopback(host):
            raise SettingsError(
                f"without API keys the gateway listens on loopback only, not on {host}: set "
                "WORKER_GATEWAY_KEYS (`berlin gateway --new-key TENANT` prints one)"
            )
        warn("no WORKER_GATEWAY_KEYS: everybody on this machine may use the gateway")
    secret = settings.gateway_ticket_secret
    fleet = CachedFleet(settings)
    if keys and secret is None:
        warn("no WORKER_GATEWAY_TICKET_SECRET: a ticket is valid at this process alone")
    return Gateway(
        client=AsyncClient(settings=settings),
        settings=settings,
        keys=keys,
        ticket_secret=secret.get_secret_value().encode()
        if secret
        else secrets.token_bytes(_SECRET_BYTES),
        fleet=fleet,
        providers=ModelProviders(fleet, settings.default_provider),
    )


@contextlib.asynccontextmanager
async def serving(gateway: Gateway, host: str, port: int) -> AsyncIterator[int]:
    """Serve ``gateway``; yields the port. At the end chats may finish, within
    WORKER_DRAIN_TIMEOUT_S. Raises ``SettingsError`` if it cannot listen.
    """
    async with open_tracer(os.environ) as tracer:
        gateway.tracer = tracer
        async with _serving(gateway, host, port) as bound:
            yield bound


@contextlib.asynccontextmanager
async def _serving(gateway: Gateway, host: str, port: int) -> AsyncIterator[int]:
    runner = web.AppRunner(
        make_app(gateway),
        handler_cancellation=True,  # a caller that goes away must be noticed
        access_log=None,  # it would show tickets
        logger=_http_logger(),
        shutdown_timeout=_CLOSE_S,
    )
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        try:
            await site.start()
        except OSError as error:
            message = f"cannot listen on {host} port {port}: {error.strerror or error}"
            raise SettingsError(message) from None
        yield runner.addresses[0][1]
        await site.stop()
        gateway.followers.stop()
        await _chats_end(gateway)
    finally:
        gateway.followers.stop()
        gateway.chats.stop()
        try:
            await runner.cleanup()
        finally:
            await gateway.aclose()


def _http_logger() -> logging.Logger:
    """Return the logger of aiohttp's server, without what its tracebacks quote of requests.

    The text of a malformed request may hold a key, a ticket or a prompt.
    """
    made = logging.getLogger(f"{__name__}.http")
    made.addFilter(_without_request)
    return made


def _without_request(record: logging.LogRecord) -> bool:
    if record.exc_info:
        kind = record.exc_info[0]
        record.msg, record.args = "%s: %s", (record.getMessage(), kind.__name__ if kind else "")
        record.exc_info = record.exc_text = None
    return True


async def _chats_end(gateway: Gateway) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(gateway.settings.drain_timeout_s):
            await gateway.chats.all_ended()
