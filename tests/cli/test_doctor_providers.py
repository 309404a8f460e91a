"""`berlin doctor`: its checks of the providers, without a Redis."""

import json

import pytest
from click.testing import CliRunner

from berlin_worker import providers
from berlin_worker.cli import main
from berlin_worker.providers.base import Services

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("secrets_of_this_test")]


def doctor(*options: str, **env: str) -> str:
    """Return the standard output, a JSON object a line."""
    environ = {"REDIS_URL": "redis://127.0.0.1:1/0", "CELERY_BROKER_URL": "", **env}
    return CliRunner().invoke(main, ["doctor", "--json", *options], env=environ).stdout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "berlin"),
        ({"WORKER_PROVIDERS": "echo"}, "echo"),
        ({"WORKER_DEFAULT_PROVIDER": "echo"}, "echo"),
        (
            {"WORKER_PROVIDERS": "berlin", "WORKER_DEFAULT_PROVIDER": "echo"},
            "WORKER_DEFAULT_PROVIDER",
        ),
        ({"WORKER_DEFAULT_PROVIDER": "nonesuch"}, "nonesuch"),
        ({"WORKER_TOKEN_KEYS": "no-key"}, "WORKER_TOKEN_KEYS: key 1 of 1 is no Fernet key"),
        ({"BERLIN_URL": "https://host?x=1"}, "BERLIN_URL must be of the form"),
        ({"WORKER_PROVIDERS": "echo,nonesuch"}, "nonesuch"),
    ],
)
def test_doctor_builds_the_providers_as_a_worker_does(
    changed: dict[str, str], message: str
) -> None:
    env = {"BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "hunter2", **changed}
    out = doctor("--no-login", **env)
    [result] = [v for v in map(json.loads, out.splitlines()) if v["name"] == "providers"]
    assert message in result["message"]
    assert (result["level"] == "ok") == (message in {"berlin", "echo"})
    assert "hunter2" not in out


@pytest.mark.parametrize(
    ("fails_in", "expected"),
    [
        ("nothing", [("providers", "ok", "echo"), ("login", "ok", "has accepted the account")]),
        (
            "check_login",
            [("providers", "ok", "echo"), ("login", "fail", "check_login raises ValueError")],
        ),
        (
            "__init__",
            [
                ("providers", "fail", "a provider raises ValueError"),
                ("login", "fail", "a provider raises ValueError"),
            ],
        ),
    ],
)
def test_doctor_builds_each_provider_once_and_reports_what_it_raises(
    fails_in: str, expected: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Faulty:
        def __init__(self, _: Services) -> None:
            self._call("__init__")

        def _call(self, name: str) -> None:
            calls.append(name)
            if name == fails_in:
                raise ValueError("hunter2")

        async def check_login(self) -> None:
            self._call("check_login")

    monkeypatch.setattr(providers, "load", lambda _: Faulty)
    out = doctor(WORKER_PROVIDERS="echo")
    found = [each for each in map(json.loads, out.splitlines()) if each["name"] != "redis"]
    assert [(each["name"], each["level"]) for each in found] == [e[:2] for e in expected]
    for each, (_, _, message) in zip(found, expected, strict=True):
        assert message in each["message"]
    assert calls.count("__init__") == 1
    assert "hunter2" not in out
