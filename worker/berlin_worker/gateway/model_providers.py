"""The provider of a model that a request names alone, as OpenAI's clients do."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from berlin_worker.errors import ClientError
from berlin_worker.gateway.fleet import CachedFleet

logger = logging.getLogger(__name__)

REFRESH_S: Final = 5.0
"""A request that finds an older list starts a new reading, and does not wait for it."""
EXPIRE_S: Final = 60.0
"""A request that finds an older list waits for the reading, within ``_WAIT_S``."""
_WAIT_S: Final = 2.0


def sole_providers(models: Iterable[tuple[str, str]], default: str) -> dict[str, str]:
    """Return each model of exactly one provider, with it; ``models`` are (provider, model).

    What the provider ``default`` serves is left out: a job that names none goes there.
    """
    found: dict[str, set[str]] = {}
    for provider, model in models:
        found.setdefault(model, set()).add(provider)
    return {
        model: next(iter(providers))
        for model, providers in found.items()
        if len(providers) == 1 and default not in providers
    }


class ModelProviders:
    """Remembers which models have one provider alone. The last list is used while Redis is away."""

    def __init__(self, fleet: CachedFleet, default: str) -> None:
        self._fleet = fleet
        self._default = default
        self._known: Mapping[str, str] = {}
        self._read_at = -EXPIRE_S
        self._reading: asyncio.Task[None] | None = None

    async def completed(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return ``job`` with a provider if it names none and exactly one serves its model."""
        model = job.get("model")
        if job.get("provider") is not None or not isinstance(model, str):
            return job
        age_s = time.monotonic() - self._read_at
        if age_s > REFRESH_S:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
            if age_s > EXPIRE_S:
                await asyncio.wait([self._reading], timeout=_WAIT_S)
        provider = self._known.get(model)
        return job if provider is None else job | {"provider": provider}

    async def _read(self) -> None:
        try:
            await self._fleet.read()  # raises if Redis is away, unlike the list of models
            self._known = sole_providers(await self._fleet.models(), self._default)
            self._read_at = time.monotonic()
        except ClientError as error:
            logger.warning("models go to the providers that had them before: %s", error)
        finally:
            self._reading = None

    async def aclose(self) -> None:
        """Cancel a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
