"""Variables that look like a setting but are not one."""

import pytest

from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("WORKER_LEASE", "WORKER_LEASE_S"),
        ("WORKER_LEASE_SECONDS", "WORKER_LEASE_S"),
        ("WORKER_MAX_ATTEMPS", "WORKER_MAX_ATTEMPTS"),
        ("WORKER_HTTPPORT", "WORKER_HTTP_PORT"),
        ("WORKER_PROXY_WHITELIST", "WORKER_PROXY_ALLOWLIST"),
        ("worker_lease_s", "WORKER_LEASE_S"),
        ("BERLIN_PASSWD", "BERLIN_PASSWORD"),
        ("BERLIN_ACOUNT", "BERLIN_ACCOUNT"),
        ("berlin_url", "BERLIN_URL"),
        ("CELERY_BROKER", "CELERY_BROKER_URL"),
        ("CELERY_BROKERURL", "CELERY_BROKER_URL"),
        ("REDIS_URI", "REDIS_URL"),
        ("redis_url", "REDIS_URL"),
    ],
)
def test_misspelt_variable_is_named_with_the_nearest_setting(name: str, nearest: str) -> None:
    [warning] = Settings.misspelt({name: SECRET, "HOME": "/"})
    assert warning == f"{name} is no setting and has no effect: did you mean {nearest}?"


def test_unknown_worker_variable_without_a_similar_setting_is_named() -> None:
    [warning] = Settings.misspelt({"WORKER_ZZZ": SECRET})
    assert warning.startswith("WORKER_ZZZ is no setting")


@pytest.mark.parametrize(
    "names",
    [
        [str(field.validation_alias) for field in Settings.model_fields.values()],
        ["BERLIN_DEBUG", "WORKER_ENDPOINT_KEY_LOCAL"],
        ["PATH", "LANG", "REDIS_PASSWORD", "CELERY_RESULT_BACKEND", "C_FORCE_ROOT", "WORKERS"],
        # If the right one is set, the other is meant for another program.
        ["REDIS_URL", "REDIS_URL2", "CELERY_BROKER_URL", "CELERY_BROKER_URLS"],
        ["CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"],
        # Kubernetes sets these in each pod, for services "worker" and "berlin-worker".
        ["WORKER_SERVICE_HOST", "WORKER_SERVICE_PORT", "WORKER_PORT", "WORKER_PORT_80_TCP_ADDR"],
        ["BERLIN_WORKER_SERVICE_HOST", "BERLIN_WORKER_PORT", "BERLIN_WORKER_SERVICE_PORT_HTTP"],
        # For deploy/redis/acl.
        ["WORKER_PASSWORD"],
    ],
)
def test_other_variables_are_left_alone(names: list[str]) -> None:
    assert Settings.misspelt(dict.fromkeys(names, SECRET)) == []


def test_name_with_control_characters_stays_one_line() -> None:
    [warning] = Settings.misspelt({"WORKER_\n\x1b[2J": SECRET})
    assert warning.isprintable()
