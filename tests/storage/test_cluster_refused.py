"""A worker refuses a cluster in one line at its start."""

import pytest

from berlin_worker.celery import app
from berlin_worker.errors import SettingsError
from berlin_worker.service import lifespan

pytestmark = pytest.mark.unit


async def test_a_worker_refuses_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis+cluster://localhost:1")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://localhost:1")
    with pytest.raises(SettingsError, match="do not run on a Redis Cluster"):
        async with lifespan(app):
            pass
