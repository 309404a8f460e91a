"""Which tests are found to start a Redis server."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berlin_worker.embedded.redis_server import RedisProcess
from tests.support import own_server as helper
from tests.support.own_server import own_server
from tests.support.selection import examples, names_server, starts_server

pytestmark = pytest.mark.unit


class _Site:
    def start(self) -> RedisProcess:
        return own_server()


def _plain(value: object = None) -> str:
    return f"{value} of {helper}"


def _by_helper() -> None:
    with own_server():
        pass


def _by_class() -> object:
    return _Site().start()


def _inside() -> Callable[[], object]:
    def later() -> object:
        return own_server()

    return later


def _again() -> object:
    return _again() or _by_helper()


@given(st.integers())
def _property(value: int) -> None:
    own_server()


def _item(obj: Callable[..., Any], *, params: Any = None, fixtures: Any = ()) -> pytest.Item:
    found = {str(n): [SimpleNamespace(func=func)] for n, func in enumerate(fixtures)}
    made = SimpleNamespace(obj=obj, _fixtureinfo=SimpleNamespace(name2fixturedefs=found))
    if params is not None:
        made.callspec = SimpleNamespace(params=params)
    return cast("pytest.Item", made)


@pytest.mark.parametrize("used", [_by_helper, _by_class, _inside, _again, _property, _Site().start])
def test_function_that_reaches_a_server_is_found(used: Callable[..., Any]) -> None:
    assert names_server(used)
    assert starts_server(_item(used))
    assert starts_server(_item(_plain, fixtures=[_plain, used]))


@pytest.mark.parametrize("used", [_plain, len, None, examples])
def test_function_without_a_server_is_not_found(used: Any) -> None:
    assert not names_server(used)
    assert not starts_server(_item(used, fixtures=[_plain]))


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({}, False),
        ({"redis_url": "fake", "size": 7}, False),
        ({"redis_url": "real"}, True),
        ({"kind": "sentinel"}, True),
        ({"topology": "single"}, True),
        ({"url": "redis+cluster://a"}, False),
    ],
)
def test_parameter_chooses_a_server(params: dict[str, object], found: bool) -> None:
    assert starts_server(_item(_plain, params=params)) is found


def test_examples_follow_the_profile() -> None:
    assert examples(500) == 5 * settings.default.max_examples
    assert examples(1) == 1
