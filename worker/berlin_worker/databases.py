"""Which database of a server a client uses: it tells the fleets of one server apart.

Keys belong to a database, channels belong to the whole server. So events of a worker on a
database other than 0 carry the number as ``db``, and control messages as ``fleet``; readers
and workers skip those of another database.
"""

from collections.abc import Callable, Collection
from typing import Any

from redis.exceptions import RedisError

from berlin_schemas import names


def database_of(client: Any) -> int:
    """The number of the database of ``client``, a redis-py client of either kind."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def other_fleets(
    client: Any, own: Collection[int], open_database: Callable[[int], Any]
) -> list[int]:
    """The databases of the server, other than ``own``, that hold jobs or workers of a fleet.

    ``client`` is synchronous and returns text or bytes, ``open_database`` opens one like it for
    another database. A server that does not answer INFO, or refuses a database, reports none.
    """
    try:
        keyspace: dict[str, Any] = client.info("keyspace")
    except RedisError:
        client.connection_pool.disconnect()  # fakeredis hangs up after an error
        return []
    numbers = sorted(int(name[2:]) for name in keyspace if name[2:].isdigit())
    found = []
    for number in numbers:
        if number in own:
            continue
        try:
            with open_database(number) as other:
                if other.exists(names.FLEET, names.WATCH, names.JOBS):
                    found.append(number)
        except RedisError:
            continue
    return found
