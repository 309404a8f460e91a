"""Transport options for kombu, split from the broker's URL."""

import pytest
from kombu import Connection

from berlin_worker.broker import broker_info
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.errors import SettingsError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "url", ["redis://user:pw@a:6379/0", "rediss://a/1?ssl_cert_reqs=none", "amqp://a//?heartbeat=5"]
)
def test_other_urls_are_unchanged(url):
    assert for_kombu(url) == (url, {}, None, None)


@pytest.mark.parametrize(
    ("url", "bare", "whole"),
    [
        ("sentinel://a:1/0", "sentinel://a:1/0", "redis+sentinel://a:1/mymaster/0"),
        (
            "sentinel://:p%40w@a:1/0;sentinel://:p%40w@b:2/0?master_name=queue",
            "sentinel://:p%40w@a:1/0",
            "redis+sentinel://:p%40w@a:1,b:2/queue/0",
        ),
        (
            "sentinel://a:1/0?master_name=queue;sentinel://b:2",
            "sentinel://a:1/0",
            "redis+sentinel://a:1,b:2/queue/0",
        ),
    ],
)
def test_sentinels_name_the_primary_in_the_query(url, bare, whole):
    found, options, _, transport = for_kombu(url)
    assert (found, options) == (bare, {"primary_url": whole})
    assert transport.endswith(":SentinelTransport")


@pytest.mark.parametrize("query", ["mastername=queue", "master_name=queue&sentinel_password=pw"])
def test_unknown_query_of_a_sentinel_url_is_refused_and_not_repeated(query):
    with pytest.raises(SettingsError, match="master_name alone") as caught:
        for_kombu(f"sentinel://a:1/0?{query}")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:QZXhunter@a/0",
        "unix://user:QZXhunter@/run/r.sock?db=1",
        "rediss://user:pw@a/1?ssl_certfile=/c&ssl_keyfile=/k&ssl_password=QZXhunter",
        "sentinel://:QZXhunter@a:1/0;sentinel://:QZXhunter@b:1/0",
        "rediss+sentinel://:QZXhunter@a/m?sentinel_password=QZXhunter",
        "amqp://user:QZXhunter@a//;amqp://user:QZXhunter@b//",
    ],
)
def test_inspect_shows_no_part_of_a_login(url):
    broker = for_kombu(url)
    with Connection(broker.url, transport_options=broker.transport_options) as connection:
        shown = broker_info.shown(connection.info())
    assert shown["transport"]
    assert "QZXhunter" not in repr(shown)
