"""Settings as ``celery report`` and ``inspect conf`` show them: no part of a secret."""

import pytest
from celery import Celery
from celery.app import utils

from berlin_worker.broker import shown_settings
from berlin_worker.settings import Settings
from berlin_worker.telemetry import logs

pytestmark = pytest.mark.unit


def test_report_and_table_show_no_secret_of_a_url_or_a_setting(monkeypatch):
    monkeypatch.setattr(utils, "filter_hidden_settings", utils.filter_hidden_settings)
    settings = Settings.from_env(
        {
            "REDIS_URL": "redis://me:stored%2Fpass@h:1/0",
            "BERLIN_PASSWORD": "berlin-pass",
            "WORKER_TOKEN_KEYS": "key-one,key-two",
        }
    )
    app = Celery(broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        result_backend="redis://me:backend-pass@h:1/0?password=query-pass",
        broker_transport_options={"sentinels": [{"keys": "stored/pass"}], "note": "berlin-pass"},
        worker_log_format="key-two %(message)s",
        broker_read_url="rediss://h:1/0?ssl_password=tls-pass",
    )
    shown_settings.install(app, settings)
    shown = app.bugreport() + str(app.conf.table()) + app.conf.humanize()
    assert "[hidden]" in shown
    for secret in ("pass@", "backend-pass", "query-pass", "tls-pass", "stored", "key-two"):
        assert secret not in shown
    assert "berlin-pass" not in shown


def test_every_secret_option_of_a_url_is_a_secret_of_the_log():
    url = "rediss://u:first-pass@a:1/0?ssl_password=tls-pass&password=query-pass&client_name=known"
    found = logs.secrets_in(f"{url};sentinel://:second%40pass@b:2")
    assert found == {"first-pass", "tls-pass", "query-pass", "second@pass"}
    assert logs.secrets_in("http://[::1") == logs.secrets_in("") == set()
