"""The URLs of the settings: they mean the same to redis-py and kombu."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from berlin_worker.config import urls
from berlin_worker.config.broker_url import for_kombu

pytestmark = pytest.mark.unit


@given(user=st.text(min_size=0, max_size=6), password=st.text(min_size=1, max_size=12))
def test_login_that_is_percent_encoded_reaches_both_clients(user: str, password: str) -> None:
    try:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:
        return  # half of a surrogate pair: no environment holds one
    url = urls.redis(f"redis://{login}@host:6380/2")
    assert parse_url(url) == {
        **({"username": user} if user else {}),
        "password": password,
        "host": "host",
        "port": 6380,
        "db": 2,
    }
    with Connection(for_kombu(url).url) as connection:
        assert (connection.userid or "", connection.password) == (user, password)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:a@b@host/1",
        "redis://:a;b@host/1",
        "redis://:a[b@host/1",
        "redis://:a b@host/1",
        "redis://:a%b@host/1",
        "redis://:a:b@host/1",
        "redis://:a]b@host/1\n",
    ],
)
def test_readable_unescaped_password_means_the_same_to_both(url: str) -> None:
    password = url.partition("://:")[2].rpartition("@")[0]
    assert parse_url(urls.redis(url))["password"] == password
    kombu_url = for_kombu(url).url
    with Connection(kombu_url) as connection:
        assert (connection.password, connection.hostname, connection.alt) == (password, "host", [])


@pytest.mark.parametrize(
    ("url", "db"),
    [
        ("redis://h", 0),
        ("redis://h/", 0),
        ("redis://h/3", 3),
        ("redis://h/3/", 3),
        ("redis://h?db=3", 3),
        ("redis://h/?db=03", 3),
        # As in redis-py: the option overrides the path.
        ("redis://h/0?db=3", 3),
        ("redis://h/0?virtual_host=3", 3),
        ("unix:///run/r.sock", 0),
        ("unix:///run/r.sock?db=3", 3),
        ("unix://user:pw@/run/r.sock?db=3", 3),
        ("redis+socket:///run/r.sock?virtual_host=3", 3),
        ("redis+socket://user:pw@/run/a%20dir/r.sock?db=3", 3),
        ("REDIS://h/3", 3),
    ],
)
def test_store_and_queue_are_one_database(url: str, db: int) -> None:
    found = urls.redis(url)
    assert urls.redis(found) == found
    assert parse_url(found).get("db", 0) == db
    with Connection(for_kombu(url).url) as connection:
        params = connection.transport.Channel._connparams(_Unconnected(connection))
    assert params["db"] == db
    store = parse_url(found)
    for name in ("path", "host", "username", "password"):
        assert (params.get(name) or None) == (store.get(name) or None)


class _Unconnected:
    """A stand-in for kombu's channel: the attributes from which it makes its parameters."""

    max_connections = socket_timeout = socket_connect_timeout = socket_keepalive = None
    socket_keepalive_options = health_check_interval = retry_on_timeout = client_name = None

    def __init__(self, connection: Connection) -> None:
        self._class = connection.transport.Channel
        self.connection = connection.transport
        self.connection_class = self._class.connection_class
        self.connection_class_ssl = self._class.connection_class_ssl

    def __getattr__(self, name: str) -> object:
        return getattr(self._class, name).__get__(self)


@pytest.mark.parametrize(
    "text", ["CERT_NONE", "none", "NONE", "ssl.CERT_NONE", "cert_optional", "required", "Required"]
)
def test_spellings_of_ssl_cert_reqs_mean_the_same_to_store_and_queue(text: str) -> None:
    expected = text.lower().rpartition("_")[2]
    url = urls.redis(f"rediss://h?ssl_cert_reqs={text}&ssl_check_hostname=0&ssl_ca_certs=/a,b;c")
    options = parse_url(url)
    assert options.pop("connection_class") is SSLConnection
    assert options == {
        "host": "h",
        "ssl_cert_reqs": expected,
        "ssl_check_hostname": False,
        "ssl_ca_certs": "/a,b;c",
    }
    with Connection(for_kombu(url).url) as connection:
        assert connection.ssl["ssl_cert_reqs"].name == f"CERT_{expected.upper()}"
        assert connection.ssl["ssl_check_hostname"] is False
        assert connection.ssl["ssl_ca_certs"] == "/a,b;c"


def test_queue_is_never_reached_in_plain_text_if_the_url_asks_for_tls() -> None:
    for url in ("rediss://h", "rediss://h?ssl_check_hostname=no", "rediss://h?client_name=me"):
        with Connection(for_kombu(url).url) as connection:
            assert connection.ssl["ssl_cert_reqs"].name == "CERT_REQUIRED"


@pytest.mark.parametrize("query", ["protocol=3", "decode_responses=true", "encoding=UTF-8"])
def test_option_that_the_worker_chooses_is_ignored(query: str) -> None:
    assert urls.redis(f"redis://h/1?{query}") == "redis://h/1"


def test_name_of_a_client_reaches_both() -> None:
    url = "redis://h/1?client_name=me"
    assert parse_url(urls.redis(url))["client_name"] == "me"
    assert for_kombu(url)[:2] == ("redis://h/1", {"client_name": "me"})


def test_brokers_of_a_list_stay_a_list() -> None:
    listed = "amqp://u:p%3Bw@a:5672//;amqps://b/vhost?heartbeat=5"
    assert urls.broker(listed) == listed


def test_socket_is_reached_as_one() -> None:
    assert parse_url(urls.redis("redis+socket:///a%20b/s"))["connection_class"] is (
        UnixDomainSocketConnection
    )
