"""The registry of providers: built-in ones, and those of other packages.

A package brings a provider by an entry point in the group
``berlin_worker.providers``: jobs use its name; its value is
``module:Class``, a class of the shape of :class:`berlin_worker.providers.base.Provider`.
A provider is imported at its first use.
"""

import functools
import importlib
import re
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from berlin_worker.providers.base import Provider

GROUP: Final = "berlin_worker.providers"
_DISTRIBUTION: Final = "berlin-worker"


def names() -> list[str]:
    """Return every name that :func:`load` accepts, sorted."""
    return sorted(_installed())


def built_in() -> list[str]:
    """Return the names of the providers that this distribution brings, sorted."""
    return sorted(name for name, points in _installed().items() if _is_ours(points[0]))


@functools.cache
def load(name: str) -> "type[Provider]":
    """Return the class of a provider. The first call imports it, which may take long.

    Raises ``JobError(INVALID_JOB)`` for a name that no installed package has, and
    ``SettingsError`` for a package that has it but cannot be used.
    """
    found = _installed().get(name, ())
    if not found:
        known = ", ".join(names())
        message = f"unknown provider {name[:40]!a}; this worker has: {known}"
        raise JobError(ErrorCode.INVALID_JOB, message)
    if len(found) > 1:
        values = " and ".join(point.value for point in found)
        raise SettingsError(f"two packages bring the provider {name!a}: {values}; remove one")
    return _resolve(found[0])


def refresh() -> None:
    """Empty the caches, so that packages that were installed since then are found."""
    importlib.invalidate_caches()
    _installed.cache_clear()
    load.cache_clear()


@functools.cache
def _installed() -> "Mapping[str, tuple[EntryPoint, ...]]":
    # Once for a process: the search reads every installed package's metadata from disk.
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in sorted(entry_points(group=GROUP), key=_is_ours, reverse=True):
        others = found.get(point.name, ())
        # Ours come first: no package may take a built-in name, and with it the credentials.
        if others and _is_ours(others[0]):
            continue
        if point.value not in {other.value for other in others}:
            found[point.name] = (*others, point)
    return MappingProxyType(found)


def _is_ours(point: EntryPoint) -> bool:
    name = point.dist.name if point.dist is not None else ""
    return re.sub(r"[-_.]+", "-", name).lower() == _DISTRIBUTION and point.module.startswith(
        f"{__name__}."
    )


def _resolve(point: EntryPoint) -> "type[Provider]":
    try:
        loaded: Any = point.load()
    except Exception as error:
        message = f"the provider {point.name!a} ({point.value}) cannot be imported"
        raise SettingsError(f"{message}: {type(error).__name__}: {error}") from error
    shape = ("check", "stream")
    if not isinstance(loaded, type) or not all(hasattr(loaded, method) for method in shape):
        message = f"the provider {point.name!a} ({point.value}) is no class with check and stream"
        raise SettingsError(message)
    return cast("type[Provider]", loaded)
