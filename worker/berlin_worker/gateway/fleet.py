"""The fleet and its models, as the workers announce them; read at most once a second."""

import asyncio
import logging
import os
import time
from typing import Final

from redis.exceptions import RedisError

from berlin_worker.client import fleet_reader
from berlin_worker.config.addresses import address
from berlin_worker.config.checked_urls import redis_address
from berlin_worker.errors import ClientError, JobError, SettingsError, Unavailable
from berlin_worker.providers import offered
from berlin_worker.settings import Settings
from berlin_worker.storage import connections
from berlin_worker.storage.fleet import Fleet
from berlin_worker.storage.redis_errors import describe

logger = logging.getLogger(__name__)

Models = frozenset[tuple[str, str]]
"""Pairs of provider and model."""

_TIMEOUT_S: Final = 3.0
_FLEET_S: Final = 1.0
_ENDPOINTS_S: Final = 60.0
"""How long a list of an upstream's models is used."""


class CachedFleet:
    """Reads the fleet for all callers of one gateway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reading = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._fleet: tuple[float, Fleet] | None = None
        self._offered: tuple[float, Models] | None = None

    async def read(self) -> Fleet:
        """Return the fleet as of a second ago or later. Raises ``Unavailable``."""
        async with self._reading:
            if self._fleet is None or time.monotonic() > self._fleet[0]:
                # Kombu counts the waiting jobs at brokers other than Redis, and it blocks.
                fleet = await asyncio.to_thread(self._read)
                self._fleet = time.monotonic() + _FLEET_S, fleet
            return self._fleet[1]

    def _read(self) -> Fleet:
        settings = self._settings
        try:
            with connections.blocking(
                redis_address(settings.redis_url, "REDIS_URL", settings.redis_tls),
                timeout_s=_TIMEOUT_S,
                decode_responses=True,
                encoding_errors="replace",  # any client may write a status
            ) as redis:
                return Fleet.of(fleet_reader.read(redis, settings))
        except (RedisError, OSError) as error:
            raise Unavailable(describe(address(settings.redis_url), error)) from error

    async def waiting(self) -> int | None:
        """Return the number of jobs on the queue, ``None`` if it is unknown."""
        try:
            return (await self.read()).waiting
        except ClientError:
            return None

    async def models(self) -> Models:
        """Return the models that a job may name, as far as they are known.

        These are the default model of the gateway, the models that workers announce, and those
        of the endpoints for which the gateway has settings.
        """
        settings = self._settings
        found = set(await self._endpoints())
        if settings.default_model:
            found.add((settings.default_provider, settings.default_model))
        try:
            announced = (await self.read()).models
        except ClientError as error:
            logger.warning("the list of models lacks those of the workers: %s", error)
            announced = {}
        found |= {(name, model) for name, models in announced.items() for model in models}
        return frozenset(found)

    async def _endpoints(self) -> Models:
        async with self._asking:
            if self._offered is None or time.monotonic() > self._offered[0]:
                self._offered = time.monotonic() + _ENDPOINTS_S, await self._ask_endpoints()
            return self._offered[1]

    async def _ask_endpoints(self) -> Models:
        try:
            names = offered.with_endpoint(self._settings, os.environ)
        except SettingsError as error:
            logger.warning("the list of models lacks those of all endpoints: %s", error)
            return frozenset()
        found: set[tuple[str, str]] = set()
        for name in names:
            try:
                models = await offered.models_of(name, self._settings, os.environ)
            except (JobError, SettingsError) as error:
                logger.warning("the list of models lacks those of %s: %s", name, error)
            else:
                found |= {(name, model) for model in models or ()}
        return frozenset(found)
