"""Variables by which Celery would be configured past the settings."""

import pytest

from berlin_worker.config import celery_variables
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit

SECRET = "hunter2"


@pytest.mark.parametrize("name", celery_variables.BROKERS)
@pytest.mark.parametrize(
    ("broker", "other"),
    [
        ("", f"redis://:{SECRET}@elsewhere/0"),
        ("redis://here/1", f"redis://:{SECRET}@here/2"),
        ("redis://here/1", f"redis://:{SECRET}@here/1"),
        ("amqp://here//", f"amqp://u:{SECRET}@elsewhere//"),
        ("redis://here/0", f"sentinel://:{SECRET}@here:26379/0"),
        ("redis://here/0", "memory://"),
        ("redis://here/0", f"{SECRET}"),
        ("redis://here/0", f"redis://:{SECRET}@here/0?db=x"),
        ("redis://here/0", f"redis://:{SECRET}@here:port/0"),
        ("redis://here/0", " "),
    ],
)
def test_another_broker_in_a_variable_of_celery_is_refused(name, broker, other):
    with pytest.raises(SettingsError, match=name) as raised:
        Settings.from_env({"CELERY_BROKER_URL": broker, name: other})
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", celery_variables.BROKERS)
@pytest.mark.parametrize(
    ("environ", "same"),
    [
        ({}, "redis://127.0.0.1:6379/0"),
        ({"REDIS_URL": "redis://here:6379/1"}, "redis://here:6379?db=1"),
        ({"CELERY_BROKER_URL": "redis://here/1"}, "redis://here?db=1"),
        ({"CELERY_BROKER_URL": "amqp://u:p@here//"}, "amqp://u:p@here//"),
        ({"CELERY_BROKER_URL": "redis://here/1"}, ""),
    ],
)
def test_same_broker_in_a_variable_of_celery_is_accepted(name, environ, same):
    found = Settings.from_env({**environ, name: same})
    assert found.broker_url == Settings.from_env(environ).broker_url


def test_variable_behind_the_broker_option_is_named():
    celery_variables.check_broker_option(None)
    with pytest.raises(SettingsError, match=r"^BROKER_URL is set"):
        celery_variables.check_broker_option("BROKER_URL")


def test_variables_of_other_celery_apps_are_named_as_without_effect():
    [first, second] = Settings.misspelt({"CELERY_LOADER": "a", "CELERY_CONFIG_MODULE": "b"})
    assert first.startswith("CELERY_CONFIG_MODULE has no effect")
    assert second.startswith("CELERY_LOADER has no effect")
