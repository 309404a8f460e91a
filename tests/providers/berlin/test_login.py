"""The login of the Berlin provider: its failures and its settings."""

from types import SimpleNamespace
from typing import Any

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.embedded.upstream import Upstream
from berlin_worker.errors import SettingsError
from berlin_worker.providers.berlin.provider import BerlinProvider
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings
from tests.support.berlin_provider import REPLY, Make, read

pytestmark = pytest.mark.contract


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        ("status:400", ErrorCode.AUTH_FAILED, False),
        ("status:401", ErrorCode.AUTH_FAILED, False),
        ("status:403", ErrorCode.AUTH_FAILED, False),
        ("status:404", ErrorCode.UPSTREAM_ERROR, False),
        ("status:302", ErrorCode.UPSTREAM_ERROR, False),
        ("status:429:3", ErrorCode.RATE_LIMITED, True),
        ("status:502", ErrorCode.UPSTREAM_ERROR, True),
        ("error_body", ErrorCode.AUTH_FAILED, False),
        ("garbage:0", ErrorCode.UPSTREAM_ERROR, True),
        ("drop", ErrorCode.UPSTREAM_ERROR, True),
        ("mute", ErrorCode.UPSTREAM_TIMEOUT, True),
        ("delay:30", ErrorCode.UPSTREAM_TIMEOUT, True),
        ("leak:500", ErrorCode.UPSTREAM_ERROR, True),
    ],
)
async def test_failed_login_has_the_code_of_its_cause(
    upstream: Upstream, make: Make, fault: str, code: ErrorCode, retryable: bool
) -> None:
    # Every login: one that is given up early may never have been seen by the upstream.
    upstream.inject(fault, on="login", times=None)
    hurry = {"WORKER_LOGIN_TIMEOUT_S": "0.3"} if code is ErrorCode.UPSTREAM_TIMEOUT else {}
    text, error = await read(make(**hurry))
    assert text == ""
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)
    assert upstream.completion_calls == 0
    upstream.clear_faults()
    assert await read(make()) == (REPLY, None)


async def test_wrong_credentials_are_not_retryable(make: Make) -> None:
    _, error = await read(make(BERLIN_PASSWORD="wrong"))
    assert error is not None
    assert (error.code, error.retryable) == (ErrorCode.AUTH_FAILED, False)


@pytest.mark.parametrize("missing", ["BERLIN_ACCOUNT", "BERLIN_PASSWORD"])
def test_missing_credentials_are_one_clear_line(missing: str) -> None:
    environ = {"BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "b", missing: ""}
    services: Any = SimpleNamespace(
        http=None, tokens=LocalTokens(), settings=Settings.from_env(environ), environ=environ
    )
    with pytest.raises(SettingsError, match=r"\Aset BERLIN_ACCOUNT and BERLIN_PASSWORD.*\Z"):
        BerlinProvider(services)


@pytest.mark.parametrize(
    "environ",
    [
        {"BERLIN_URL": "ftp://host"},
        {"BERLIN_URL": "nonsense"},
        {"BERLIN_URL": "https://user:hunter2@host"},
        {"BERLIN_PROXY": "socks5://user:hunter2@host"},
    ],
)
def test_addresses_that_cannot_be_used_are_named_and_not_repeated(environ: dict[str, str]) -> None:
    environ = {"BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "b", **environ}
    with pytest.raises(SettingsError, match=r"BERLIN_(URL|PROXY)") as caught:
        Settings.from_env(environ)
    assert "hunter2" not in str(caught.value)
