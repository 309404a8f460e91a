"""Which tests are quick: of the levels unit and contract, without a Redis server of their own."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Final

import pytest
from hypothesis import settings

from berlin_worker.embedded.redis_server import RedisProcess
from berlin_worker.embedded.topology import Cluster, SentinelSet

OPTION: Final = "--quick"
PROFILE: Final = "quick"
"""Name of Hypothesis' profile of a quick run."""
EXAMPLES: Final = 20
"""Examples of a property in a quick run, in place of Hypothesis' 100."""

_LEVELS: Final = ("pytest.mark.unit", "pytest.mark.contract")
_KINDS: Final = frozenset({"real", "second", "single", "sentinel", "cluster"})
"""Values of parameters that choose a server."""
_SERVERS: Final = (RedisProcess, SentinelSet, Cluster)


def examples(count: int) -> int:
    """Return how many examples a property tries that has ``count`` of them in place of 100."""
    return max(1, count * settings.default.max_examples // 100)


def is_quick_file(path: Path) -> bool:
    """Return whether a test file has a quick level: another one need not be imported."""
    text = path.read_text(encoding="utf-8")
    return any(level in text for level in _LEVELS)


def starts_server(item: pytest.Item) -> bool:
    """Return whether a test starts a Redis server: by a fixture, a parameter, or its own code."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    if any(isinstance(value, str) and value in _KINDS for value in params.values()):
        return True
    info = getattr(item, "_fixtureinfo", None)
    fixtures = [found[-1].func for found in info.name2fixturedefs.values()] if info else []
    return any(map(names_server, [getattr(item, "obj", None), *fixtures]))


def refuse(_: RedisProcess) -> RedisProcess:
    """Take the place of ``RedisProcess.__enter__`` in a quick run."""
    raise AssertionError(
        "this quick test starts a Redis server: name the server's class, or a parameter that "
        f"chooses one ({', '.join(sorted(_KINDS))}), in the test or its fixtures"
    )


def names_server(function: object) -> bool:
    """Return whether a function of the tests, or one that it uses, names a class of servers."""
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    inner = inspect.unwrap(getattr(inner, "__func__", inner))
    return isinstance(inner, FunctionType) and _names_server(inner)


_known: Final[dict[object, bool]] = {}


def _names_server(used: FunctionType | type) -> bool:
    if used not in _known:
        _known[used] = False  # functions that call each other end here
        _known[used] = any(each in _SERVERS or _of_tests(each) for each in _uses(used))
    return _known[used]


def _of_tests(used: object) -> bool:
    used = inspect.unwrap(used) if isinstance(used, FunctionType) else used
    return (
        isinstance(used, FunctionType | type)
        and used.__module__.startswith("tests.")
        and _names_server(used)
    )


def _uses(used: FunctionType | type) -> Iterator[object]:
    """Yield the objects in their module that a function, or the methods of a class, name."""
    functions = [used] if isinstance(used, FunctionType) else vars(used).values()
    for function in map(inspect.unwrap, filter(inspect.isfunction, functions)):
        for name in _names(function.__code__):
            if name in function.__globals__:
                yield function.__globals__[name]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
