"""The check of `berlin doctor` for other fleets on one server."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.storage.databases import database_of, database_of_url, other_fleets

if TYPE_CHECKING:
    from redis import Redis

    from berlin_worker.settings import Settings

_HINT = (
    "give each fleet its own server if you can: databases share channels and memory "
    "(deploy/README.md, Fleets)"
)


def examine(redis: "Redis", settings: "Settings") -> Iterator[CheckResult]:
    """Yield a warning if other databases of the server hold another fleet."""
    own = {database_of(redis), *map(database_of_url, settings.shards)}
    if found := other_fleets(redis, own):
        numbers = ", ".join(map(str, found))
        word = "database" if len(found) == 1 else "databases"
        yield CheckResult(
            "fleets", "warn", f"another fleet uses {word} {numbers} of this server", _HINT
        )
