"""The providers that a worker builds at its start, and those that it refuses."""

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker import providers
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers import served
from berlin_worker.providers.base import Services
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.providers.served import provider_cache
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings
from berlin_worker.telemetry import known_secrets

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("secrets_of_this_test")]

LOGIN = {"BERLIN_ACCOUNT": "account", "BERLIN_PASSWORD": "hunter2"}


def cache(**environ: str) -> Any:
    settings = Settings.from_env(environ)
    services: Any = SimpleNamespace(
        http=None, tokens=LocalTokens(), settings=settings, environ=environ
    )
    return provider_cache(services, settings)


def refusal(lookup: Any, name: str) -> str:
    with pytest.raises(JobError) as caught:
        lookup(name)
    assert caught.value.code is ErrorCode.INVALID_JOB
    return caught.value.message


@pytest.mark.parametrize(
    "environ",
    [
        {"WORKER_DEFAULT_PROVIDER": "echo"},
        {"WORKER_PROVIDERS": "echo"},
        {"WORKER_PROVIDERS": " echo ,", "WORKER_DEFAULT_PROVIDER": "echo"},
    ],
)
def test_worker_without_berlins_account_serves_others(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lookup = cache(**environ)
    assert type(lookup("echo")).__name__ == "EchoProvider"
    assert "providers: echo" in caplog.text
    message = refusal(lookup, "berlin")
    assert "berlin" in message
    assert "not served" in message or "not configured" in message


def test_unconfigured_provider_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    lookup = cache(WORKER_DEFAULT_PROVIDER="echo")
    for _ in range(3):
        refusal(lookup, "berlin")
    assert caplog.text.count("set BERLIN_ACCOUNT and BERLIN_PASSWORD") == 1


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, "BERLIN_ACCOUNT"),
        ({"WORKER_PROVIDERS": "berlin,echo"}, "BERLIN_ACCOUNT"),
        ({"WORKER_DEFAULT_PROVIDER": "ehco"}, "WORKER_DEFAULT_PROVIDER: unknown provider 'ehco'"),
        ({**LOGIN, "WORKER_DEFAULT_PROVIDER": "x\ny"}, "WORKER_DEFAULT_PROVIDER: unknown provider"),
        ({**LOGIN, "WORKER_PROVIDERS": "berlin,ehco"}, "WORKER_PROVIDERS: unknown provider 'ehco'"),
        (
            {**LOGIN, "WORKER_PROVIDERS": "berlin", "WORKER_DEFAULT_PROVIDER": "echo"},
            "WORKER_DEFAULT_PROVIDER must be among WORKER_PROVIDERS",
        ),
        ({"WORKER_PROVIDERS": "echo", "WORKER_DEFAULT_PROVIDER": "berlin"}, "must be among"),
        # An account that is there is to be used: what is wrong with it shows at the start.
        ({**LOGIN, "WORKER_DEFAULT_PROVIDER": "echo", "BERLIN_URL": "ftp://x"}, "BERLIN_URL"),
    ],
)
def test_settings_that_cannot_be_served_are_one_clear_line(
    environ: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        cache(**environ)
    assert named in str(caught.value)
    assert str(caught.value).isprintable()
    assert "hunter2" not in str(caught.value)


class Own:
    """A provider of another package that offers every optional part."""

    @classmethod
    def check_settings(cls, settings: Settings, environ: Mapping[str, str]) -> None:
        if "OWN_KEY" not in environ:
            raise SettingsError("set OWN_KEY")

    @classmethod
    def secrets(cls, settings: Settings, environ: Mapping[str, str]) -> list[str]:
        return [environ.get("OWN_KEY", "")]

    @classmethod
    def server_url(cls, settings: Settings, environ: Mapping[str, str]) -> str:
        return "https://own.example"

    def __init__(self, services: Services) -> None:
        pass


class Rude:
    @classmethod
    def server_url(cls, settings: Settings, environ: Mapping[str, str]) -> str:
        raise ValueError(environ)


@pytest.fixture
def _own_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    load = providers.load
    others: dict[str, Any] = {"own": Own, "rude": Rude}
    monkeypatch.setattr(providers, "load", lambda name: others.get(name) or load(name))


@pytest.mark.usefixtures("_own_providers")
@pytest.mark.parametrize("variable", ["WORKER_PROVIDERS", "WORKER_DEFAULT_PROVIDER"])
def test_settings_of_any_provider_are_checked_at_the_start(variable: str) -> None:
    environ = {"WORKER_DEFAULT_PROVIDER": "own", variable: "own"}
    with pytest.raises(SettingsError, match="set OWN_KEY"):
        served.check_settings(Settings.from_env(environ), environ)
    with pytest.raises(SettingsError, match="set OWN_KEY"):
        cache(**environ)
    environ["OWN_KEY"] = "own-secret"
    served.check_settings(Settings.from_env(environ), environ)
    assert isinstance(cache(**environ)("own"), Own)


@pytest.mark.usefixtures("_own_providers")
@pytest.mark.parametrize("first", ["own", "echo"])
def test_secrets_of_any_provider_are_hidden_in_the_log(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_secrets, "LOG", known_secrets.KnownSecrets(["first-one"]))
    environ = {"WORKER_DEFAULT_PROVIDER": first, "OWN_KEY": "own/secret"}
    cache(**environ)("own")  # built now if it was not at the start
    hidden = known_secrets.LOG.hide("first-one, own%2Fsecret, own/secret")
    assert hidden == "[hidden], [hidden], [hidden]"


@pytest.mark.usefixtures("_own_providers")
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("own", "https://own.example"),
        ("berlin", "https://ai.berlin4h.top"),
        ("echo", None),
        ("rude", None),
        ("nobody", None),
    ],
)
def test_server_url_is_from_the_provider_or_absent(name: str, url: str | None) -> None:
    assert served.server_url(name, Settings.from_env({}), {}) == url


def test_every_installed_provider_is_served_without_a_list() -> None:
    lookup = cache(**LOGIN)
    found = [lookup("berlin"), lookup("echo")]
    assert [lookup("berlin"), lookup("echo")] == found
    assert "unknown provider" in refusal(lookup, "nobody")


@pytest.mark.parametrize(
    "environ",
    [
        {"OPENAI_API_KEY": "sk-secret-1"},
        {"OPENAI_BASE_URL": "http://localhost:1/v1"},
        {"WORKER_ENDPOINTS": "vllm=http://localhost:1/v1"},
    ],
)
def test_worker_without_berlins_account_starts_if_another_is_configured(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name = "vllm" if "WORKER_ENDPOINTS" in environ else "openai"
    lookup = cache(**environ)
    assert f"providers: {name}, and" in caplog.text
    assert "berlin, which is not served" in caplog.text
    assert type(lookup(name)).__name__ == "OpenAIProvider"
    assert "not configured" in refusal(lookup, "berlin")
    assert not served.lacks_settings(Settings.from_env(environ), environ)
    served.check_settings(Settings.from_env(environ), environ)


def test_each_endpoint_is_a_provider_with_its_key() -> None:
    environ = {
        "WORKER_ENDPOINTS": "vllm=http://gpu:1/v1,my-router=http://router/v1",
        "WORKER_ENDPOINT_KEY_MY_ROUTER": "router-secret",
        "OPENAI_API_KEY": "openai-secret",
        **LOGIN,
    }
    settings = Settings.from_env(environ)
    everything = {"berlin", "vllm", "my-router", "openai"}
    assert served.configured_providers(settings, environ) == everything
    lookup = cache(**environ)
    assert lookup("my-router")._headers["Authorization"] == "Bearer router-secret"
    assert "Authorization" not in lookup("vllm")._headers
    assert served.server_url("vllm", settings, environ) == "http://gpu:1/v1"
    assert known_secrets.LOG.hide("router-secret openai-secret") == "[hidden] [hidden]"
    message = refusal(lookup, "vlm")
    assert "my-router, vllm" in message


def test_model_and_proxy_of_openai_are_not_those_of_other_endpoints() -> None:
    environ = {
        "OPENAI_BASE_URL": "http://x/v1",
        "OPENAI_MODEL": "llama3",
        "OPENAI_PROXY": "http://me:proxy%2Dsecret@proxy:3128",
        "WORKER_ENDPOINTS": "vllm=http://gpu:1/v1",
    }
    lookup = cache(**environ)
    openai: Any = lookup("openai")
    other: Any = lookup("vllm")
    assert (openai.default_model, other.default_model) == ("llama3", "")
    assert (openai._proxy, other._proxy) == (environ["OPENAI_PROXY"], "")
    assert "proxy-secret" not in known_secrets.LOG.hide("a line with proxy-secret")
    job = PromptJob.model_validate({"messages": [{"role": "user", "content": "x"}]})
    assert JobDefaults("openai").resolve(job, lookup)[0].model == "llama3"
    assert JobDefaults("openai", "other").resolve(job, lookup)[0].model == "other"
    with pytest.raises(SettingsError, match="OPENAI_PROXY") as caught:
        cache(**{**environ, "OPENAI_PROXY": "socks5://me:proxy-secret@x"})
    assert "secret" not in str(caught.value)


def test_each_endpoint_has_its_model_and_proxy() -> None:
    environ = {
        "WORKER_ENDPOINTS": "vllm=http://gpu:1/v1,my-router=http://router/v1",
        "WORKER_ENDPOINT_MODEL_MY_ROUTER": "llama3 ",
        "WORKER_ENDPOINT_PROXY_MY_ROUTER": "http://me:router-proxy%2Dsecret@proxy:3128",
    }
    lookup = cache(**environ)
    router: Any = lookup("my-router")
    assert (router.default_model, lookup("vllm").default_model) == ("llama3", "")  # type: ignore[attr-defined]  # an optional part
    assert router._proxy == environ["WORKER_ENDPOINT_PROXY_MY_ROUTER"]
    assert "proxy-secret" not in known_secrets.LOG.hide("a line with router-proxy-secret")
    settings = Settings.from_env(environ)
    assert served.default_models(settings, environ, lookup) == {"my-router": "llama3"}
    everywhere = settings.model_copy(update={"default_model": "other"})
    assert set(served.default_models(everywhere, environ, lookup).values()) == {"other"}
    with pytest.raises(SettingsError, match="WORKER_ENDPOINT_PROXY_VLLM") as caught:
        cache(**environ, WORKER_ENDPOINT_PROXY_VLLM="socks5://me:proxy-secret@x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WORKER_ENDPOINT_MODEL_A", "x\udcff"),
        ("WORKER_ENDPOINT_MODEL_A", "x" * 129),
        ("WORKER_ENDPOINT_MODEL_A", "x\x00"),
        ("WORKER_ENDPOINT_PROXY_A", "http://[::g]:1"),
        ("WORKER_ENDPOINT_PROXY_A", "http://\udcff"),
        ("OPENAI_MODEL", "x\udcff"),
        ("WORKER_METRICS_MODELS", "x\udcff"),
    ],
)
def test_endpoint_that_cannot_be_used_ends_the_start(variable: str, value: str) -> None:
    environ = {"WORKER_ENDPOINTS": "a=http://x/v1", variable: value}
    with pytest.raises(SettingsError, match=variable):
        cache(**environ)
    if variable.startswith("WORKER_ENDPOINT_"):
        settings = Settings.from_env({"WORKER_ENDPOINTS": "a=http://x/v1"})
        with pytest.raises(SettingsError, match=variable):
            served.check_settings(settings, environ)


def test_worker_may_serve_one_endpoint_alone() -> None:
    environ = {"WORKER_ENDPOINTS": "a=http://x/v1,b=http://y/v1", "WORKER_PROVIDERS": "b"}
    lookup = cache(**environ)
    lookup("b")
    assert "not served" in refusal(lookup, "a")
    with pytest.raises(SettingsError, match="WORKER_PROVIDERS"):
        cache(**{**environ, "WORKER_PROVIDERS": "c"})


@pytest.mark.parametrize("name", ["berlin", "echo", "openai"])
def test_name_of_a_provider_is_no_name_of_an_endpoint(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is the name of another provider"):
        cache(WORKER_ENDPOINTS=f"{name}=http://x/v1", **LOGIN)


def test_key_that_no_header_can_hold_ends_the_start() -> None:
    environ = {"WORKER_ENDPOINTS": "a=http://x/v1", "WORKER_ENDPOINT_KEY_A": "sec\nret"}
    with pytest.raises(SettingsError, match="WORKER_ENDPOINT_KEY_A: it has a character") as caught:
        cache(**environ)
    assert "sec" not in str(caught.value)
