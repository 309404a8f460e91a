"""The database number of a client: it separates the fleets of one server.

Keys belong to a database, channels belong to the whole server. So events of a worker on a
database other than 0 carry the number as ``db``, and control messages as ``fleet``; readers
and workers skip those of another database.
"""

import contextlib
from collections.abc import Collection
from typing import Any

from redis import ConnectionPool, Redis
from redis.exceptions import RedisError

from berlin_schemas import names
from berlin_worker.config import urls
from berlin_worker.storage.blocking_cluster import BlockingCluster
from berlin_worker.storage.cluster import AsyncCluster


def database_of(client: Any) -> int:
    """Return the database number of ``client``, a sync or async client of redis-py."""
    if isinstance(client, AsyncCluster | BlockingCluster):
        return 0  # a cluster has no other
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def database_of_url(url: str) -> int:
    """Return the database number in the URL of a Redis."""
    return urls.parse_redis(url, "REDIS_URL").db or 0


def other_fleets(client: Redis, own: Collection[int]) -> list[int]:
    """Return the databases of the server, other than ``own``, with jobs or workers of a fleet.

    A database that the server refuses is skipped; without INFO the list is empty.
    """
    try:
        keyspace: Any = client.info("keyspace")
    except RedisError:
        client.connection_pool.disconnect()  # fakeredis hangs up after an error
        return []
    found = []
    for number in sorted(int(name[2:]) for name in keyspace if name[2:].isdigit()):
        if number in own:
            continue
        with contextlib.suppress(RedisError), _on_database(client, number) as other:
            if other.exists(names.FLEET, *names.DUE_KEYS, names.JOBS):
                found.append(number)
    return found


def _on_database(client: Redis, number: int) -> Redis:
    pool = client.connection_pool
    options = {**pool.connection_kwargs, "db": number}
    return Redis.from_pool(ConnectionPool(pool.connection_class, **options))
