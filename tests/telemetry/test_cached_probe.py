"""A cached probe of a silent dependency: callers wait shortly, and calls are rare."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from berlin_worker.telemetry.cached_probe import NoAnswer, Probe, ask_all

pytestmark = pytest.mark.unit

LATER = 30.0


@contextmanager
def probing(ask: Callable[[], Any]) -> Iterator[Probe[Any]]:
    probe = Probe("test", ask)
    try:
        yield probe
    finally:
        probe.close()


def answer(probe: Probe[Any], within_s: float = LATER) -> Any:
    return probe.answer(time.monotonic() + within_s)


def test_fresh_answer_is_shared():
    asked = []

    def ask() -> int:
        asked.append(1)
        return len(asked)

    with probing(ask) as probe:
        assert [answer(probe) for _ in range(3)] == [1, 1, 1]


def test_hanging_probe_is_not_awaited_and_not_started_twice():
    going_on, asked = threading.Event(), []

    def ask() -> str:
        asked.append(1)
        going_on.wait(LATER)
        return "at last"

    with probing(ask) as probe:
        for _ in range(3):
            with pytest.raises(NoAnswer, match="no answer"):
                answer(probe, 0.01)
        going_on.set()
        assert answer(probe) == "at last"
        assert len(asked) == 1


def test_failure_shows_its_kind_and_not_its_text():
    def ask() -> None:
        raise ConnectionError("redis://user:secret@host")

    with probing(ask) as probe, pytest.raises(NoAnswer) as caught:
        answer(probe)
    assert "ConnectionError" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_all_are_asked_before_any_is_waited_for():
    both = threading.Barrier(2, timeout=LATER)
    with probing(both.wait) as one, probing(both.wait) as other:
        ask_all((one, other))
        assert {answer(one), answer(other)} == {0, 1}
