"""Which step follows from which state of the shared token."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from berlin_schemas import ErrorCode, ErrorInfo
from berlin_worker.errors import SettingsError
from berlin_worker.providers.base import Token
from berlin_worker.providers.tokens.encryption import cipher_for
from berlin_worker.providers.tokens.policy import (
    FREE_REFUSALS,
    POLL_MAX_S,
    Failure,
    Lock,
    Snapshot,
    Step,
    backoff_s,
    decide,
    fingerprint,
    parse_error,
    poll_s,
    refusal_pauses_s,
)

pytestmark = pytest.mark.unit

TOKEN = Token("secret", "1")
INFO = ErrorInfo(code=ErrorCode.AUTH_FAILED, message="wrong password", retryable=False)
PAUSED = Failure(INFO, retry_in_s=3.0, count=4)
OVER = Failure(INFO, retry_in_s=0.0, count=4)

locks = pytest.mark.parametrize("lock", Lock)


@locks
def test_valid_token_is_used_in_every_state(lock: Lock) -> None:
    assert decide(Snapshot(lock, TOKEN, 10.0, PAUSED)) is TOKEN


@locks
def test_no_process_logs_in_during_a_back_off_even_with_the_lock(lock: Lock) -> None:
    assert decide(Snapshot(lock, failure=PAUSED)) is PAUSED
    assert decide(Snapshot(lock, TOKEN, 10.0, PAUSED), refused={"1"}) is PAUSED


@pytest.mark.parametrize(
    ("lock", "step"),
    [(Lock.FREE, Step.TAKE_LOCK), (Lock.OURS, Step.LOG_IN), (Lock.OTHERS, Step.WAIT)],
)
def test_lock_decides_which_process_logs_in(lock: Lock, step: Step) -> None:
    assert decide(Snapshot(lock)) is step
    assert decide(Snapshot(lock, failure=OVER)) is step
    assert decide(Snapshot(lock, TOKEN, 10.0), refused={"1"}) is step


def test_failure_raises_a_separate_error_for_each_caller() -> None:
    first, second = PAUSED.error(), PAUSED.error()
    assert first is not second
    assert first.info() == INFO
    assert first.retry_after_s == 3.0
    assert Failure(INFO).error().retry_after_s is None


def test_back_offs_double_up_to_the_longest() -> None:
    pauses = [
        backoff_s(count, max_s=60, jitter=1, retry_after_s=None) for count in (1, 2, 3, 8, 9, 5000)
    ]
    assert pauses == [0.5, 1, 2, 60, 60, 60]


@given(
    count=st.integers(0, 10**6),
    max_s=st.floats(0.1, 3600),
    jitter=st.floats(0, 1),
    retry_after_s=st.none() | st.floats(0, 10**6),
)
def test_back_off_is_never_nothing_and_never_longer_than_allowed(
    count: int, max_s: float, jitter: float, retry_after_s: float | None
) -> None:
    pause_s = backoff_s(count, max_s=max_s, jitter=jitter, retry_after_s=retry_after_s)
    assert min(0.25, max_s / 2) <= pause_s <= max_s
    assert pause_s >= min(retry_after_s or 0, max_s)


@pytest.mark.parametrize(("max_s", "pauses"), [(60, [0.5, 1, 2, 4, 5]), (0.1, [0.1])])
def test_first_few_fresh_tokens_may_be_refused_and_then_logins_slow_down(
    max_s: float, pauses: list[float]
) -> None:
    assert refusal_pauses_s(max_s=max_s) == [0.0] * FREE_REFUSALS + pauses


def test_waiting_processes_poll_less_and_less_often() -> None:
    pauses = [poll_s(polls) for polls in range(2000)]
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1] == POLL_MAX_S


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"code": "unheard_of"}'])
def test_error_that_cannot_be_read_is_still_an_error(text: str) -> None:
    assert parse_error(text).code is ErrorCode.UPSTREAM_ERROR
    assert parse_error(INFO.model_dump_json()) == INFO


def test_fingerprints_differ_by_password_and_account_and_are_stable() -> None:
    one = fingerprint("berlin", "a", "p")
    others = [("berlin", "a", "q"), ("berlin", "b", "p"), ("other", "a", "p"), ("berlin", "a", "")]
    assert one == fingerprint("berlin", "a", "p")
    assert len({one, *(fingerprint(*other) for other in others)}) == 5
    assert len(one) == 16


def test_no_repr_of_the_state_shows_the_token() -> None:
    assert "secret" not in repr(Snapshot(Lock.FREE, TOKEN, 10.0))


def test_keys_that_are_only_blanks_are_refused() -> None:
    with pytest.raises(SettingsError, match="no key"):
        cipher_for(SecretStr(" , "))


def test_missing_package_is_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(SettingsError, match=r"berlin-worker\[encryption\]"):
        cipher_for(SecretStr("any"))
