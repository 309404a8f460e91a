"""The providers by name: ours, and those that other packages bring.

A package brings a provider by an entry point in the group
``berlin_worker.providers``: its name is what jobs say, its value
``module:Class``, a class of the shape of :class:`berlin_worker.providers.base.Provider`.
Nothing is imported before a job asks for it.
"""

import functools
import importlib
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from berlin_worker.providers.base import Provider

GROUP: Final = "berlin_worker.providers"

_BUILT_IN: Final = {
    "berlin": "berlin_worker.providers.berlin:BerlinProvider",
    "echo": "berlin_worker.providers.echo:EchoProvider",
}


def names() -> list[str]:
    """Every name that :func:`load` knows, sorted."""
    return sorted({*_BUILT_IN, *_installed()})


@functools.cache
def load(name: str) -> "type[Provider]":
    """The class of a provider. It is imported here; the first call may take its time.

    Raises ``JobError(INVALID_JOB)`` for a name that nobody has, and ``SettingsError``
    for a package that has it but cannot be used.
    """
    # Ours come first: no package may take the name and with it the credentials.
    if name in _BUILT_IN:
        return _resolve(EntryPoint(name, _BUILT_IN[name], GROUP))
    found = _installed().get(name, ())
    if not found:
        known = ", ".join(names())
        told = f"unknown provider {name[:40]!a}; this worker has: {known}"
        raise JobError(ErrorCode.INVALID_JOB, told)
    if len(found) > 1:
        told = " and ".join(point.value for point in found)
        raise SettingsError(f"two packages bring the provider {name!a}: {told}; remove one")
    return _resolve(found[0])


def refresh() -> None:
    """Forget what was found: packages that were installed meanwhile are seen again."""
    importlib.invalidate_caches()
    _installed.cache_clear()
    load.cache_clear()


@functools.cache
def _installed() -> "Mapping[str, tuple[EntryPoint, ...]]":
    # Once for a process: the search reads every installed package's metadata from disk.
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUP):
        others = found.get(point.name, ())
        if point.value not in {other.value for other in others}:
            found[point.name] = (*others, point)
    return MappingProxyType(found)


def _resolve(point: EntryPoint) -> "type[Provider]":
    try:
        loaded: Any = point.load()
    except Exception as error:
        told = f"the provider {point.name!a} ({point.value}) cannot be imported"
        raise SettingsError(f"{told}: {type(error).__name__}: {error}") from error
    shape = ("check", "stream")
    if not isinstance(loaded, type) or not all(hasattr(loaded, method) for method in shape):
        told = f"the provider {point.name!a} ({point.value}) is no class with check and stream"
        raise SettingsError(told)
    return cast("type[Provider]", loaded)
