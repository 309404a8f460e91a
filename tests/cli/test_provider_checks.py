"""What the doctor reports of providers that do not build, lack settings or refuse the login."""

import contextlib

import pytest

from berlin_schemas import ErrorCode
from berlin_worker.cli.doctor import provider_checks
from berlin_worker.cli.doctor.provider_checks import examine
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("BERLIN_ACCOUNT", "BERLIN_PASSWORD", "WORKER_PROVIDERS"):
        monkeypatch.delenv(name, raising=False)


def settings(**values):
    return Settings(_env_file=None, **values)


def building(monkeypatch, result):
    """Let the providers be ``result``: a mapping, or the error that building them raises."""

    @contextlib.asynccontextmanager
    async def opened(_):
        if isinstance(result, Exception):
            raise result
        yield result

    monkeypatch.setattr(provider_checks, "_open", opened)


class Login:
    def __init__(self, error=None):
        self.error = error

    async def check_login(self):
        if self.error:
            raise self.error


def shown(results):
    return [(each.name, each.level) for each in results]


ECHO = settings(providers="echo", default_provider="echo")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SettingsError("WORKER_X is wrong"), "WORKER_X is wrong"),
        (JobError(ErrorCode.AUTH_FAILED, "refused"), "refused"),
        (ValueError("hunter2"), "a provider raises ValueError"),
    ],
)
def test_provider_that_does_not_build_fails_without_a_secret(monkeypatch, error, message):
    building(monkeypatch, error)
    [result] = examine(ECHO, login=False)
    assert (result.name, result.level) == ("providers", "fail")
    assert message in result.message
    assert "hunter2" not in str(result)


def test_providers_that_build_are_named(monkeypatch):
    building(monkeypatch, {"one": object(), "two": object()})
    [result] = examine(ECHO, login=False)
    assert (result.level, result.message) == ("ok", "one, two")


def test_providers_without_settings_are_not_built(monkeypatch):
    building(monkeypatch, RuntimeError("built all the same"))
    assert list(examine(settings(), login=False)) == []


def test_login_is_tried_at_each_provider_that_has_one(monkeypatch):
    refused = Login(JobError(ErrorCode.AUTH_FAILED, "wrong account"))
    building(monkeypatch, {"echo": object(), "good": Login(), "bad": refused})
    _, good, bad = examine(ECHO, login=True)
    assert (good.level, good.message) == ("ok", "good has accepted the account")
    assert (bad.level, bad.message) == ("fail", "bad: auth_failed: wrong account")


def test_login_is_not_needed_by_other_providers(monkeypatch):
    building(monkeypatch, {"echo": object()})
    _, result = examine(ECHO, login=True)
    assert (result.level, "not needed" in result.message) == ("ok", True)


def test_missing_credentials_are_a_warning_and_a_wrong_setting_fails(monkeypatch):
    assert shown(examine(settings(), login=True)) == [("login", "warn")]
    building(monkeypatch, JobError(ErrorCode.AUTH_FAILED, "no token"))
    _, result = examine(ECHO, login=True)
    assert (result.level, result.hint) == ("fail", "correct the setting")
    assert "no token" in result.message
