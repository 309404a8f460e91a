"""URLs that the settings refuse: one line that names the variable and the fault."""

import pytest

from berlin_worker.config import redis_options
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("url", "message"),
    [
        *((f"redis://h?{name}=1", name) for name in redis_options.REFUSED),
        ("redis://h?db=x", "db must be the number of a database, not x"),
        ("redis://h?db=-1", "db must be"),
        ("redis://h?db=", "db must be .* is empty"),
        ("redis://h?db", "db must be"),
        ("redis://h?db=1&db=2", "db is given twice"),
        ("redis://h?db=1&virtual_host=2", "db and virtual_host differ"),
        ("redis://h/one", "the path must be the number of a database"),
        ("redis://h/0/1", "the path must be the number of a database"),
        ("redis://h?protocol=4", "protocol must be 2 or 3, not 4"),
        ("redis://h?decode_responses=maybe", "decode_responses must be true or false"),
        ("redis://h?encoding=latin-1", "encoding must be utf-8"),
        ("redis://h?client_name=a%20b", "client_name must be"),
        ("redis://h?client_nam=a", "client_nam does not exist: did you mean client_name"),
        ("redis://h?DB=1", "DB does not exist: did you mean db"),
        ("redis://h?foo=1", "foo does not exist: remove it"),
        ("redis://h?max_connections=1", "max_connections=1 cannot be used"),
        ("redis://h?ssl_cert_reqs=none", "ssl_cert_reqs needs TLS: write rediss://"),
        ("rediss://h?ssl_cert_reqs=perhaps", "ssl_cert_reqs must be none, optional or required"),
        ("rediss://h?ssl_keyfile=/k", "ssl_keyfile needs ssl_certfile"),
        ("unix://run/redis.sock", "must be absolute.*, not 'run/redis.sock'"),
        ("unix://", "must be absolute"),
        ("unix:///" + "d" * 120, "at most 107 bytes"),
        ("redis+sentinel://a/mymaster/one", "the path must be the number of a database"),
        ("redis+sentinel://a/m?sentinel_username=me", "sentinel_username needs sentinel_password"),
        ("redis+sentinel://a/m?ssl_cert_reqs=none", "ssl_cert_reqs needs TLS"),
        ("redis+sentinel://a/m?master_name=m", "master_name=m cannot be used.*redis.sentinel://"),
        ("redis://a?sentinel_password=pw", "sentinel_password needs Sentinels"),
        ("http://h", "it must be of the form"),
        ("valkey://h", "it must be of the form"),
        ("h:6379", "it must be of the form"),
        ("redis:h", "it must be of the form"),
        ("redis://h:0", "cannot be read"),
        ("redis://h:65536", "cannot be read"),
        ("redis://h:x", "cannot be read"),
        ("redis://h/0#f", "cannot be read"),
        ("redis://a b/0", "cannot be read"),
        ("redis://h\t/0", "it must be of the form"),
    ],
)
@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL"])
def test_unusable_url_is_named_in_one_line(variable: str, url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}( .*)?: .*{message}") as refused:
        Settings.from_env({variable: url})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+sentinel://a:1,b:2", "the name of the primary is missing"),
        ("redis+sentinel://a:1,b:2/", "the name of the primary is missing"),
        ("redis+sentinel:///mymaster", "cannot be read"),
        ("redis+sentinel://a:1,/mymaster", "cannot be read"),
        ("redis+sentinel://a,:1/mymaster", "cannot be read"),
        ("redis+sentinel://a:0,b/mymaster", "cannot be read"),
        ("redis+sentinel://a,b:65536/mymaster", "cannot be read"),
        ("redis+sentinel://[::1,b/mymaster", "cannot be read"),
        ("redis+sentinel://:a@b:1,:c@d:1/mymaster", "one login for all hosts"),
        ("redis://a,b", "cannot be read"),
    ],
)
@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL"])
def test_unusable_list_of_hosts_is_named_in_one_line(variable: str, url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}: .*{message}"):
        Settings.from_env({variable: url})


def test_kombus_list_of_sentinels_is_for_the_queue_alone() -> None:
    with pytest.raises(SettingsError, match=r"REDIS_URL: .*Sentinels are named as redis\+sentinel"):
        Settings.from_env({"REDIS_URL": "sentinel://a:1/0"})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("amqp://h//?foo=1", "the option foo cannot be used with RabbitMQ"),
        ("amqp://h:x//", "cannot be read"),
        ("amqp://h?heartbeat=x", "heartbeat must be whole seconds"),
        ("amqp://h?heartbeat=", "heartbeat must be whole seconds"),
        ("amqp://h?heartbeat=1e999", "heartbeat must be whole seconds"),
        ("amqp://h?connect_timeout=5", "connect_timeout cannot be used with RabbitMQ"),
        ("amqp://h?login_method=x", "login_method must be PLAIN, AMQPLAIN or EXTERNAL"),
        ("amqp://a..b//", "cannot be read"),
        ("amqp://a//;redis://b/0", "each URL of a list must begin with amqp://"),
        ("sentinel://a:1;redis://b:1", "each URL of a list must begin with sentinel://"),
        ("sentinel://a:1/x", "the path must be the number"),
        ("sentinel://:a@a:1;sentinel://:b@b:1", "one login and one database"),
        ("sentinel://a:1/0;sentinel://b:1/1", "one login and one database"),
        ("redis+cluster://a:1", "a Redis Cluster cannot hold the queue: name another Redis"),
        ("sqs://", "it must be of the form"),
    ],
)
def test_unusable_broker_url_is_named_in_one_line(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^CELERY_BROKER_URL: .*{message}"):
        Settings.from_env({"CELERY_BROKER_URL": url})


def test_event_shards_are_refused_in_one_line_that_names_the_cluster() -> None:
    with pytest.raises(SettingsError, match=r"REDIS_URL=redis\+cluster://") as refused:
        Settings.from_env({"WORKER_EVENT_SHARDS": "redis://u:hunter2@a,redis://b"})
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert Settings.from_env({"WORKER_EVENT_SHARDS": ""}) == Settings.from_env({})
