"""What `berlin doctor` says of other fleets on the same server."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.storage.databases import database_of, database_of_url, other_fleets

if TYPE_CHECKING:
    from redis import Redis

    from berlin_worker.settings import Settings

_ADVICE = (
    "give each fleet a server of its own if you can: channels and memory are shared; "
    "deploy/README.md, Fleets"
)


def examine(redis: "Redis", settings: "Settings") -> Iterator[CheckResult]:
    """A warning if other databases of the server hold a fleet; the fleet's own do not count."""
    own = {database_of(redis), *map(database_of_url, settings.shards)}
    if found := other_fleets(redis, own):
        where = ", ".join(map(str, found))
        word = "database" if len(found) == 1 else "databases"
        yield CheckResult(
            "fleets", "warn", f"another fleet uses {word} {where} of this server", _ADVICE
        )
