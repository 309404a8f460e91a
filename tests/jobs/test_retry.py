"""The decision after a failed attempt: every branch, and their order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError
from berlin_worker.jobs.retry import (
    FINAL_CODES,
    Fail,
    FallBack,
    KeepPartial,
    Retry,
    RetryPolicy,
    decide_retry,
    spread_s,
)

pytestmark = pytest.mark.unit

POLICY = RetryPolicy(max_attempts=3, base_s=0.5, max_s=30.0)


def failure(code=ErrorCode.UPSTREAM_ERROR, *, retryable=True, retry_after_s=None):
    return JobError(code, "message", retryable=retryable, retry_after_s=retry_after_s)


def decided(error, **changes):
    given_ = {
        "tries": 1,
        "streaming": False,
        "on_interrupt": "restart",
        "remaining_s": 600.0,
        "policy": POLICY,
        "jitter": 0.0,
    }
    return decide_retry(error, **(given_ | changes))


def test_retry_after_beyond_the_deadline_fails_at_once_with_the_error_itself():
    error = failure(ErrorCode.RATE_LIMITED, retry_after_s=601.0)
    assert decided(error) == Fail(error)


def test_retry_after_longer_than_every_backoff_is_waited_in_full():
    assert decided(failure(retry_after_s=120.0)) == Retry(120.0)


def test_retry_after_shorter_than_the_backoff_does_not_shorten_it():
    assert decided(failure(retry_after_s=0.01)) == Retry(0.25)


@pytest.mark.parametrize("on_interrupt", ["restart", "fail", "keep"])
def test_before_the_first_chunk_a_retry_is_automatic(on_interrupt):
    assert decided(failure(), on_interrupt=on_interrupt) == Retry(0.25)


def test_after_chunks_on_interrupt_decides():
    error = failure()
    assert decided(error, streaming=True, on_interrupt="restart") == Retry(0.25)
    assert decided(error, streaming=True, on_interrupt="fail") == Fail(error)
    assert decided(error, streaming=True, on_interrupt="keep") == KeepPartial()


def test_error_that_is_not_retryable_fails_even_if_the_text_might_be_kept():
    error = failure(retryable=False)
    assert decided(error, streaming=True, on_interrupt="keep") == Fail(error)


@pytest.mark.parametrize("code", sorted(FINAL_CODES))
def test_final_codes_are_never_retried_whatever_the_error_says(code):
    error = failure(code)
    assert decided(error) == Fail(error)


def test_last_attempt_fails_with_its_own_error():
    error = failure(ErrorCode.RATE_LIMITED)
    assert isinstance(decided(error, tries=2), Retry)
    assert decided(error, tries=3) == Fail(error)
    assert decided(error, tries=9) == Fail(error)


def test_last_attempt_with_text_to_keep_keeps_it():
    assert decided(failure(), tries=3, streaming=True, on_interrupt="keep") == KeepPartial()


def test_wait_that_ends_exactly_at_the_deadline_is_too_long():
    assert isinstance(decided(failure(), remaining_s=0.25), Fail)
    assert isinstance(decided(failure(), remaining_s=math.nextafter(0.25, 1)), Retry)


@given(tries=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_backoff_stays_between_half_of_its_full_value_and_that(tries, jitter):
    full = min(POLICY.max_s, POLICY.base_s * 2 ** min(tries - 1, 60))
    assert full / 2 <= POLICY.backoff_s(tries, jitter) <= full


@given(tries=st.integers(1, 100), jitter=st.floats(0, 1, exclude_max=True))
def test_backoff_never_shrinks_with_more_tries(tries, jitter):
    assert POLICY.backoff_s(tries, jitter) <= POLICY.backoff_s(tries + 1, jitter)


@given(
    asked_s=st.floats(0, 1e6),
    remaining_s=st.floats(-1e6, 1e6),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_wait_that_was_asked_for_is_lengthened_by_a_bounded_part(asked_s, remaining_s, jitter):
    wait_s = spread_s(asked_s, remaining_s=remaining_s, jitter=jitter)
    assert asked_s <= wait_s <= asked_s + min(asked_s, max(1.0, asked_s / 4), 15.0)
    assert wait_s < remaining_s or wait_s == asked_s


@pytest.mark.parametrize(("asked_s", "over_s"), [(0.2, 0.2), (2.0, 1.0), (20.0, 5.0), (3600, 15.0)])
def test_fleet_that_was_refused_does_not_return_at_one_instant(asked_s, over_s):
    jobs = [number / 1000 for number in range(1000)]
    waits_s = [spread_s(asked_s, remaining_s=1e6, jitter=jitter) for jitter in jobs]
    assert len(set(waits_s)) == len(jobs)
    assert max(waits_s) - min(waits_s) == pytest.approx(over_s, rel=0.01)
    delays_s = {
        decided(failure(retry_after_s=asked_s), jitter=jitter, remaining_s=1e6).delay_s
        for jitter in jobs
    }
    assert len(delays_s) == len(jobs)
    assert min(delays_s) >= asked_s


errors = st.builds(
    failure,
    st.sampled_from(ErrorCode),
    retryable=st.booleans(),
    retry_after_s=st.none() | st.floats(allow_nan=True, allow_infinity=True),
)


@given(
    error=errors,
    case=st.fixed_dictionaries(
        {
            "tries": st.integers(1, 100),
            "streaming": st.booleans(),
            "on_interrupt": st.sampled_from(["restart", "fail", "keep"]),
            "remaining_s": st.floats(-1e6, 1e6),
            "jitter": st.floats(0, 1, exclude_max=True),
        }
    ),
)
def test_whatever_happens_a_retry_waits_long_enough_and_never_past_the_deadline(error, case):
    match decided(error, **case):
        case Retry(delay_s):
            assert error.retryable
            assert error.code not in FINAL_CODES
            assert case["tries"] < POLICY.max_attempts
            assert not case["streaming"] or case["on_interrupt"] == "restart"
            assert POLICY.backoff_s(case["tries"], case["jitter"]) <= delay_s
            assert delay_s < case["remaining_s"]
            if error.retry_after_s is not None and not math.isnan(error.retry_after_s):
                assert delay_s >= error.retry_after_s
        case KeepPartial():
            assert case["streaming"]
            assert case["on_interrupt"] == "keep"
            assert error.retryable
        case Fail(final):
            assert final is error


@given(
    code=st.sampled_from(ErrorCode),
    retryable=st.booleans(),
    streaming=st.booleans(),
    tries=st.integers(1, 4),
    remaining_s=st.sampled_from([-1.0, 0.0, 5.0]),
)
def test_fallback_follows_if_there_is_time_for_what_another_could_do_better(
    code, retryable, streaming, tries, remaining_s
):
    place = {"streaming": streaming, "tries": tries, "remaining_s": remaining_s}
    error = failure(code, retryable=retryable)
    decision = decided(error, has_fallback=True, **place)
    better = code not in FINAL_CODES and not streaming
    if better and tries < POLICY.max_attempts and remaining_s > 0:
        assert decision == FallBack()
    else:
        assert decision == decided(error, **place)


def test_each_fallback_has_an_attempt_of_its_own():
    assert POLICY.with_fallbacks(0) is POLICY
    assert POLICY.with_fallbacks(2).max_attempts == POLICY.max_attempts + 2
