"""The check of `berlin doctor` for other fleets on one server."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from berlin_worker.cli.doctor.checks import CheckResult
from berlin_worker.storage.databases import database_of, other_fleets

if TYPE_CHECKING:
    from redis import Redis

_HINT = (
    "give each fleet its own server if you can: databases share channels and memory "
    "(deploy/README.md, Fleets)"
)


def examine(redis: "Redis") -> Iterator[CheckResult]:
    """Yield a warning if other databases of the server hold another fleet."""
    if found := other_fleets(redis, {database_of(redis)}):
        numbers = ", ".join(map(str, found))
        word = "database" if len(found) == 1 else "databases"
        yield CheckResult(
            "fleets", "warn", f"another fleet uses {word} {numbers} of this server", _HINT
        )
