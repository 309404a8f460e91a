"""Run a check that may block in a thread, and wait for its result for a short time only."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_FRESH_S: Final = 2.0
"""Seconds for which an answer is used, so that many callers do not ask the server more often."""


class NoAnswer(Exception):
    """The call failed or did not answer in time; the text names the cause, without secrets."""


class Probe(Generic[T]):
    """Calls ``ask`` in one thread at a time, and shares its answer among all callers."""

    def __init__(self, name: str, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"probe-{name}")
        self._lock = threading.Lock()
        self._asked: Future[T] | None = None
        self._asked_at = 0.0

    def ask(self) -> None:
        """Ask, unless the last answer is fresh or still on its way."""
        with self._lock:
            if self._asked is not None:
                fresh = time.monotonic() - self._asked_at < _FRESH_S
                if fresh or not self._asked.done():
                    return
            self._asked_at = time.monotonic()
            self._asked = self._thread.submit(self._ask)

    def answer(self, give_up: float) -> T:
        """Return the answer; raises :class:`NoAnswer`. ``give_up``: time of ``time.monotonic``."""
        self.ask()
        assert self._asked is not None, "asked just now"
        try:
            return self._asked.result(max(0.0, give_up - time.monotonic()))
        except TimeoutError:
            raise NoAnswer("no answer in time") from None
        except Exception as error:  # noqa: BLE001  # whatever the client of a server raises
            raise NoAnswer(f"cannot be reached ({type(error).__name__})") from None

    def close(self) -> None:
        """Stop the thread, without waiting for the call that it runs."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def ask_all(probes: Iterable[Probe[Any]]) -> None:
    """Ask all at once: the caller then waits for the slowest answer, not for the sum of all."""
    for probe in probes:
        probe.ask()
