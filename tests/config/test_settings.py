"""Settings: the defaults of the contract, errors that name the variable, secrets kept."""

from pathlib import Path

import pytest

from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings, table

pytestmark = pytest.mark.unit

README = Path(__file__).parents[2] / "deploy/README.md"
SECRET = "hunter2-secret"


def test_defaults_are_those_of_the_contract():
    settings = Settings.from_env({})
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.broker_url == settings.redis_url
    assert settings.berlin_url == "https://ai.berlin4h.top"
    assert settings.berlin_account is None
    assert settings.berlin_password is None
    assert settings.berlin_proxy is None


def test_broker_url_defaults_to_redis_url():
    redis = {"REDIS_URL": "redis://here/1"}
    assert Settings.from_env(redis).broker_url == "redis://here/1"
    amqp = redis | {"CELERY_BROKER_URL": "amqp://there"}
    assert Settings.from_env(amqp).broker_url == "amqp://there"


@pytest.mark.parametrize(
    "variable", [str(field.validation_alias) for field in Settings.model_fields.values()]
)
def test_empty_variable_counts_as_not_set(variable):
    assert Settings.from_env({variable: ""}) == Settings.from_env({})


def test_values_are_read_from_text():
    settings = Settings.from_env({"WORKER_LEASE_S": "2.5", "WORKER_MAX_ATTEMPTS": "7"})
    assert (settings.lease_s, settings.max_attempts) == (2.5, 7)


def test_only_the_documented_variables_are_read():
    assert Settings.from_env({"lease_s": "77", "LEASE_S": "77", "HOME": "/"}).lease_s == 6.0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WORKER_LEASE_S", SECRET),
        ("WORKER_LEASE_S", "0"),
        ("WORKER_LEASE_S", "-1"),
        ("WORKER_LEASE_S", "nan"),
        ("WORKER_LEASE_S", "inf"),
        ("WORKER_LEASE_S", "86400"),
        ("WORKER_REAP_INTERVAL_S", "1e308"),
        ("WORKER_RENEW_INTERVAL_S", "1e-300"),
        ("WORKER_DRAIN_TIMEOUT_S", "1e300"),
        ("WORKER_QUEUE_TTL_S", "9999999999999999"),
        ("WORKER_LOG_TTL_S", "9" * 20),
        ("WORKER_DEAD_LETTERS_MAX", "9" * 30),
        ("WORKER_MAX_ATTEMPTS", SECRET),
        ("WORKER_MAX_ATTEMPTS", "0"),
        ("WORKER_MAX_ATTEMPTS", "1.5"),
        ("WORKER_MAX_JOB_BYTES", "0"),
        ("WORKER_MAX_JOB_BYTES", "16777217"),
    ],
)
def test_error_names_the_variable_and_never_the_value(variable, value):
    with pytest.raises(SettingsError, match=rf"^{variable}: ") as refused:
        Settings.from_env({variable: value})
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


def test_every_variable_at_fault_is_named_at_once():
    with pytest.raises(SettingsError, match=r"WORKER_MAX_ATTEMPTS: .*; WORKER_LEASE_S: "):
        Settings.from_env({"WORKER_LEASE_S": "x", "WORKER_MAX_ATTEMPTS": "x"})


def test_lease_shorter_than_its_renewal_is_refused():
    with pytest.raises(SettingsError, match="WORKER_LEASE_S must be longer than"):
        Settings.from_env({"WORKER_LEASE_S": "1", "WORKER_RENEW_INTERVAL_S": "1"})


def test_secrets_are_in_no_repr():
    settings = Settings.from_env(
        {
            "REDIS_URL": f"redis://:{SECRET}@127.0.0.1/0",
            "CELERY_BROKER_URL": f"amqp://user:{SECRET}@127.0.0.1",
            "BERLIN_ACCOUNT": SECRET,
            "BERLIN_PASSWORD": SECRET,
            "BERLIN_PROXY": f"http://user:{SECRET}@proxy",
            "WORKER_PROXY_ALLOWLIST": f"http://user:{SECRET}@proxy",
            "WORKER_TOKEN_KEYS": SECRET,
        }
    )
    assert SECRET not in repr(settings) + str(settings)
    assert settings.berlin_password is not None
    assert settings.berlin_password.get_secret_value() == SECRET


def test_proxy_allow_list_is_split_at_commas():
    settings = Settings.from_env({"WORKER_PROXY_ALLOWLIST": " http://a:1, ,http://b:2 "})
    assert settings.proxies == {"http://a:1", "http://b:2"}


def test_list_of_providers_is_split_at_commas():
    settings = Settings.from_env({"WORKER_PROVIDERS": "berlin, echo,"})
    assert settings.served_providers == {"berlin", "echo"}
    assert Settings.from_env({}).served_providers == frozenset()


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_env({}).lease_s = 1.0


def test_every_duration_has_a_unit():
    timed = {"timeout", "ttl", "interval", "backoff", "lease", "base"}
    for name in Settings.model_fields:
        if timed & set(name.split("_")):
            assert name.endswith("_s"), name


def test_table_in_the_readme_is_that_of_the_code():
    _, found, rest = README.read_text(encoding="utf-8").partition("<!-- settings -->\n")
    inside, closed, _ = rest.partition("\n<!-- /settings -->")
    assert found
    assert closed
    assert inside == table(), "run `make readme`"
