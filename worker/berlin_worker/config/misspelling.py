"""Find variables of the environment that look like a misspelt setting (pure)."""

import difflib
from collections.abc import Collection, Iterator
from typing import Final

from berlin_worker.config import endpoints

_OURS: Final = ("WORKER_", "BERLIN_")
_DEBUG: Final = "BERLIN_DEBUG"
"""Read by the command line."""
_ENDPOINT: Final = tuple(f"{endpoints.PREFIX}{kind}_" for kind in endpoints.KINDS)
"""Variables of listed endpoints; without a list they may belong to another service."""
_FOREIGN: Final = frozenset(
    {
        "CELERY_BROKER_READ_URL",
        "CELERY_BROKER_WRITE_URL",
        # The password of the worker's Redis user, for deploy/redis/acl and compose.yaml.
        "WORKER_PASSWORD",
    }
)
_NEAR: Final = 0.85
"""Similarity required of names without our prefix: other programs have similar variables."""


def warnings(names: Collection[str], known: Collection[str]) -> list[str]:
    """Return a line for each of ``names`` that is misspelt, with the nearest of ``known``.

    Every unknown ``WORKER_*`` and ``BERLIN_*`` counts, in capitals or not. Another name that is
    similar to a setting counts only if that setting is missing.
    """
    readable = {*known, _DEBUG}
    return [
        line
        for name in sorted(set(names) - readable - set(_of_kubernetes(names)))
        if (line := _warning(name, names, readable))
    ]


def _warning(name: str, names: Collection[str], known: Collection[str]) -> str | None:
    upper = name.upper()
    ours = upper.startswith(_OURS)
    of_endpoint = upper.startswith(_ENDPOINT)
    if (of_endpoint and not any(each.startswith(_ENDPOINT) for each in known)) or upper in _FOREIGN:
        return None
    cutoff = 0.0 if ours else _NEAR
    near = difflib.get_close_matches(upper, sorted(known), n=1, cutoff=cutoff)
    if not near or (not ours and near[0] in names):
        return None
    return f"{ascii(name)[1:-1]} is no setting and has no effect: did you mean {near[0]}?"


def _of_kubernetes(names: Collection[str]) -> Iterator[str]:
    """Return the variables that Kubernetes sets for services: one may be named "worker"."""
    marks = [name.removesuffix("_SERVICE_HOST") for name in names if name.endswith("_SERVICE_HOST")]
    prefixes = tuple(f"{mark}_{kind}" for mark in marks for kind in ("SERVICE_", "PORT"))
    for name in names:
        if prefixes and name.startswith(prefixes):
            yield name
