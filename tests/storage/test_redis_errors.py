"""Errors of Redis: temporary ones, and those that no retry repairs."""

import ssl
from typing import Any

import pytest
import redis.client
from redis import exceptions
from redis.asyncio import ConnectionPool
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterNode

from berlin_worker.cli.errors import as_problem
from berlin_worker.storage.redis_errors import (
    PrimaryNotFound,
    describe,
    is_temporary,
    refusal,
    reply_of,
)

pytestmark = pytest.mark.unit

AT = "rediss://host:6379/0"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def distrust(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate ...")
    error.verify_message = message
    return error


def no_tls() -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (exceptions.MovedError("866 127.0.0.1:7001"), "is a Redis Cluster"),
        (exceptions.ClusterCrossSlotError("Keys in request don't hash"), "is a Redis Cluster"),
        (exceptions.ResponseError("CROSSSLOT Keys in request"), "is a Redis Cluster"),
        (exceptions.ResponseError("DB index is out of range"), "does not have this database"),
        (
            caused(exceptions.ConnectionError("Error 1"), distrust("certificate has expired")),
            "has a certificate that is not trusted: certificate has expired",
        ),
        (caused(exceptions.ConnectionError("Error 1"), no_tls()), "does not speak TLS"),
        (no_tls(), "does not speak TLS"),
    ],
)
def test_permanent_fault_is_named(error: Exception, message: str) -> None:
    assert (refusal(error) or "").startswith(message)
    assert describe(AT, error).startswith(f"Redis at {AT} {message}")
    assert not is_temporary(error)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("Error 111 connecting to host:6379."),
        exceptions.TimeoutError("no reply"),
        exceptions.BusyLoadingError("loading"),
        exceptions.ReadOnlyError("replica"),
        exceptions.ClusterDownError("Hash slot not served"),
        exceptions.MasterDownError("Link with MASTER is down"),
        exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."),
        PrimaryNotFound("none of 3 Sentinels names a primary 'mymaster'"),
        ConnectionResetError(),
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    ],
)
def test_redis_that_is_away_is_waited_for(error: Exception) -> None:
    assert refusal(error) is None
    assert is_temporary(error)


def test_silence_to_a_tls_handshake_is_reported_with_its_likely_cause() -> None:
    assert "speaks no TLS" in describe(AT, exceptions.TimeoutError("no reply"))
    assert "TLS" not in describe("redis://host", exceptions.TimeoutError("no reply"))


def test_errors_that_are_chained_in_a_ring_end() -> None:
    one, two = exceptions.ConnectionError("one"), exceptions.ConnectionError("two")
    one.__cause__, two.__cause__ = two, one
    assert refusal(one) is None


PROMPT = "a secret prompt ) of pipeline caused error: ('x',)"


@pytest.mark.parametrize(
    "message",
    [
        "this user has no permissions to run the 'xrange' command",
        'it\'s "quoted" \\ and é',
        "unknown command 'EVALX', with args beginning with: 'a secret'",
    ],
)
@pytest.mark.parametrize("kind", [exceptions.ResponseError, exceptions.NoPermissionError])
@pytest.mark.parametrize("pipeline", [Pipeline, redis.client.Pipeline])
def test_error_of_a_pipeline_is_shown_without_its_command(
    pipeline: type[Any], kind: type[Exception], message: str
) -> None:
    error = kind(message)
    expected = message.partition(", with args")[0]
    assert reply_of(error) == expected
    pipeline(ConnectionPool(), {}, transaction=True, shard_hint=None).annotate_exception(
        error, 3, ("HSET", "job:{1}:state", "job", PROMPT[:20])
    )
    assert "secret prompt" in str(error)
    assert reply_of(error) == expected
    assert describe("redis://host", error).endswith(f"({expected})")
    assert "secret" not in str(as_problem(error).format_message())


def test_refused_command_is_not_reported_as_an_outage() -> None:
    error = exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
    assert describe(AT, error) == (
        f"Redis at {AT} refuses a command (command not allowed when used memory > 'maxmemory'.)"
    )


def test_node_of_a_cluster_that_does_not_answer_is_named():
    error = exceptions.ConnectionError("refused")
    error.connection = ClusterNode("10.0.0.1", 7000)
    assert describe("redis+cluster://a:1,b:2", error) == (
        "node 10.0.0.1:7000 of Redis at redis+cluster://a:1,b:2 does not answer (ConnectionError)"
    )
