"""The URLs of the settings: one meaning for redis-py and kombu, and no secret in an error."""

import traceback
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import Connection
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from berlin_worker.config import redis_options, urls
from berlin_worker.config.addresses import address
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit

HARD = "/#?:@%[] ;,&=+\\\"'<>{}|^`~!$*()é"
WORD = st.text(alphabet="QZXJKqzxjk", min_size=4, max_size=6)
HARD_TEXT = st.text(alphabet=HARD, min_size=1, max_size=4)
PASSWORDS = st.builds(lambda a, hard, b: (a, hard, b), WORD, HARD_TEXT, WORD)
FORMS = [
    "redis://:{}@127.0.0.1:1/0",
    "redis://user:{}@127.0.0.1:1/0?db=1",
    "rediss://user:{}@host",
    "unix://user:{}@/run/redis.sock?db=1",
    "redis+socket://user:{}@/run/redis.sock",
    "redis+cluster://user:{}@a:1,b:2",
    "redis+sentinel://user:{}@a:1/mymaster",
    "redis://127.0.0.1/0?password={}",
    "rediss://127.0.0.1?ssl_certfile=/none&ssl_password={}",
    "{}://host",
    "{}",
]


def words_in(error: BaseException) -> str:
    """All that an error holds or prints, with its causes and contexts."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None:
        chain += [str(current), repr(current), repr(current.args)]
        current = current.__cause__ or current.__context__
    return "".join(chain) + "".join(traceback.format_exception_only(error))


@pytest.mark.parametrize("form", FORMS)
@given(password=PASSWORDS)
@example(password=("QQQQ", "/", "ZZZZ"))
@example(password=("QQQQ", "?db=", "ZZZZ"))
@example(password=("QQQQ", "#", "ZZZZ"))
@example(password=("QQQQ", "[", "ZZZZ"))
@example(password=("QQQQ", "://b@", "ZZZZ"))
@example(password=("QQQQ", "&", "ZZZZ"))
@example(password=("QQQQ", "&db=", "ZZZZ"))
@example(password=("QQQQ", ";", "ZZZZ"))
@example(password=("QQQQ", "℀", "ZZZZ"))
def test_no_error_and_no_address_holds_a_part_of_a_password(
    form: str, password: tuple[str, str, str]
) -> None:
    raw, (begin, _, end) = "".join(password), password
    for text in (raw, raw.replace("@", "%40"), quote(raw, safe="")):
        for variable in ("REDIS_URL", "CELERY_BROKER_URL"):
            shown = shown_by({variable: form.format(text)})
            assert begin not in shown
            assert end not in shown
        shown = address(form.format(text)) if "password=" not in form and "@" in form else ""
        assert begin not in shown


def shown_by(environ: dict[str, str]) -> str:
    """All that settings, or their error, show of their URLs."""
    try:
        settings = Settings.from_env(environ)
    except SettingsError as error:
        message = str(error)
        shown = words_in(error)
    else:
        for_kombu(settings.broker_url)
        every = (settings.redis_url, settings.broker_url)
        return repr(settings) + "".join(map(address, every))
    assert "\n" not in message
    assert message.startswith(tuple(environ))
    return shown


@pytest.mark.parametrize("variable", ["BERLIN_URL", "BERLIN_PROXY", "WORKER_PROXY_ALLOWLIST"])
@given(password=PASSWORDS)
@example(password=("QQQQ", "[", "ZZZZ"))
@example(password=("QQQQ", "℀", "ZZZZ"))
@example(password=("QQQQ", ",", "ZZZZ"))
def test_no_error_of_an_http_url_holds_a_part_of_a_password(
    variable: str, password: tuple[str, str, str]
) -> None:
    for text in ("".join(password), quote("".join(password), safe="")):
        shown = shown_by({variable: f"http://user:{text}@proxy:3128"})
        assert password[0] not in shown
        assert password[2] not in shown


@given(user=st.text(min_size=0, max_size=6), password=st.text(min_size=1, max_size=12))
def test_a_login_that_is_percent_encoded_reaches_both_clients(user: str, password: str) -> None:
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
def test_a_password_that_is_readable_all_the_same_is_read_alike(url: str) -> None:
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
        # As redis-py has it: the option comes first.
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
    """What kombu's channel asks of itself to make its parameters."""

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
def test_the_spellings_of_ssl_cert_reqs_mean_the_same_to_store_and_queue(text: str) -> None:
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


def test_the_queue_is_never_reached_in_plain_text_if_the_url_asks_for_tls() -> None:
    for url in ("rediss://h", "rediss://h?ssl_check_hostname=no", "rediss://h?client_name=me"):
        with Connection(for_kombu(url).url) as connection:
            assert connection.ssl["ssl_cert_reqs"].name == "CERT_REQUIRED"


@pytest.mark.parametrize("query", ["protocol=3", "decode_responses=true", "encoding=UTF-8"])
def test_an_option_that_we_choose_ourselves_is_ignored(query: str) -> None:
    assert urls.redis(f"redis://h/1?{query}") == "redis://h/1"


def test_the_name_of_a_client_reaches_both() -> None:
    url = "redis://h/1?client_name=me"
    assert parse_url(urls.redis(url))["client_name"] == "me"
    assert for_kombu(url)[:2] == ("redis://h/1", {"client_name": "me"})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        *((f"redis://h?{name}=1", name) for name in redis_options.REFUSED),
        ("redis://h?db=x", "db must be the number of a database, not x"),
        ("redis://h?db=-1", "db must be"),
        ("redis://h?db=", "db must be .* is empty"),
        ("redis://h?db", "db must be"),
        ("redis://h?db=1&db=2", "db stands there twice"),
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
def test_what_cannot_be_used_is_named_in_one_line(variable: str, url: str, message: str) -> None:
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
def test_a_list_of_hosts_that_cannot_be_used_is_named_in_one_line(
    variable: str, url: str, message: str
) -> None:
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
        ("amqp://a//;redis://b/0", "each URL of a list must begin with amqp://"),
        ("sentinel://a:1;redis://b:1", "each URL of a list must begin with sentinel://"),
        ("sentinel://a:1/x", "the path must be the number"),
        ("sentinel://:a@a:1;sentinel://:b@b:1", "one login and one database"),
        ("sentinel://a:1/0;sentinel://b:1/1", "one login and one database"),
        ("redis+cluster://a:1", "a Redis Cluster cannot hold the queue: name another Redis"),
        ("sqs://", "it must be of the form"),
    ],
)
def test_a_queue_that_cannot_be_used_is_named_in_one_line(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^CELERY_BROKER_URL: .*{message}"):
        Settings.from_env({"CELERY_BROKER_URL": url})


def test_brokers_of_a_list_stay_a_list() -> None:
    listed = "amqp://u:p%3Bw@a:5672//;amqps://b/vhost?heartbeat=5"
    assert urls.broker(listed) == listed


def test_event_shards_are_refused_in_one_line_that_names_the_cluster() -> None:
    with pytest.raises(SettingsError, match=r"REDIS_URL=redis\+cluster://") as refused:
        Settings.from_env({"WORKER_EVENT_SHARDS": "redis://u:hunter2@a,redis://b"})
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert Settings.from_env({"WORKER_EVENT_SHARDS": ""}) == Settings.from_env({})


def test_a_socket_is_reached_as_one() -> None:
    assert parse_url(urls.redis("redis+socket:///a%20b/s"))["connection_class"] is (
        UnixDomainSocketConnection
    )
