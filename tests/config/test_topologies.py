"""URLs of Sentinels and clusters: hard spellings, and no queue on a cluster."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection
from redis.asyncio.connection import parse_url

from berlin_worker.client import AsyncClient, Client
from berlin_worker.config import urls
from berlin_worker.config.addresses import address
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
PORT = st.integers(1, 65535)
HOST = st.sampled_from(
    ["a", "redis-0.redis", "10.0.0.1", "[::1]", "[fe80::1%eth0]", "[2001:db8::7]"]
)
NODES = st.lists(st.tuples(HOST, st.none() | PORT), min_size=1, max_size=5)


def spelt(nodes: list[tuple[str, int | None]]) -> str:
    return ",".join(host if port is None else f"{host}:{port}" for host, port in nodes)


def found(nodes: list[tuple[str, int | None]], default: int) -> tuple[tuple[str, int], ...]:
    return tuple((host.strip("[]"), default if port is None else port) for host, port in nodes)


@given(nodes=NODES, texts=st.tuples(st.just("") | TEXT, TEXT, TEXT, TEXT), tls=st.booleans(),
       db=st.none() | st.integers(0, 99))  # fmt: skip
def test_sentinel_urls_survive_writing_and_reading(
    nodes: list[tuple[str, int | None]],
    texts: tuple[str, str, str, str],
    tls: bool,
    db: int | None,
) -> None:
    user, password, primary, watch = texts
    begin = "rediss" if tls else "redis"
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@"
    path = quote(primary, safe="") + ("" if db is None else f"/{db}")
    query = f"?sentinel_username=w&sentinel_password={quote(watch, safe='')}"
    url = f"{begin}+sentinel://{login}{spelt(nodes)}/{path}{query}"

    parsed = urls.parse_redis(url, "REDIS_URL")
    assert urls.parse_redis(parsed.url, "REDIS_URL") == parsed
    assert (parsed.topology, parsed.primary, parsed.uses_tls) == ("sentinel", primary, tls)
    assert parsed.nodes == found(nodes, 26379)
    assert dict(parsed.sentinel_login) == {"username": "w", "password": watch}
    assert parsed.login == (user, password)
    server = parse_url(parsed.at("10.0.0.9:7"))
    assert (server["host"], server["port"], server.get("db", 0)) == ("10.0.0.9", 7, db or 0)
    assert (server.get("username", ""), server["password"]) == (user, password)

    broker = for_kombu(parsed.url)
    assert broker.transport_options["primary_url"] == parsed.url
    assert bool(broker.use_ssl) == tls
    with Connection(broker.url, ssl=broker.use_ssl) as connection:
        assert (connection.userid or "", connection.password) == (user, password)
        assert (connection.hostname, connection.port or 26379) == (
            unquote(parsed.nodes[0][0]), parsed.nodes[0][1],
        )  # fmt: skip


@given(nodes=NODES, password=TEXT, tls=st.booleans())
def test_cluster_urls_survive_writing_and_reading(
    nodes: list[tuple[str, int | None]], password: str, tls: bool
) -> None:
    begin = "rediss" if tls else "redis"
    url = f"{begin}+cluster://:{quote(password, safe='')}@{spelt(nodes)}"
    parsed = urls.parse_redis(url, "REDIS_URL")
    assert urls.parse_redis(parsed.url, "REDIS_URL") == parsed
    assert (parsed.topology, parsed.uses_tls, parsed.db) == ("cluster", tls, None)
    assert parsed.nodes == found(nodes, 6379)
    assert parsed.login == ("", password)
    assert address(parsed.url) == f"{begin}+cluster://{spelt(nodes)}"


def test_kombus_list_of_sentinels_means_the_same_as_one_url() -> None:
    old = "sentinel://:p%40w@a:1/2;sentinel://b?master_name=queue"
    assert urls.broker(old) == urls.broker("redis+sentinel://:p%40w@a:1,b/queue/2")


@pytest.mark.parametrize("db", ["", "/", "/0", "?db=0"])
def test_cluster_has_one_database(db: str) -> None:
    assert urls.redis(f"redis+cluster://a{db}") == "redis+cluster://a"
    with pytest.raises(SettingsError, match="no other database than 0"):
        urls.redis("redis+cluster://a/1")


@pytest.mark.parametrize("given", ["", "redis+cluster://b", "rediss+cluster://b"])
def test_cluster_needs_another_broker(given: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^(REDIS|CELERY_BROKER)_URL: .*cannot hold the queue: (name|set) "
    ):
        Settings.from_env({"REDIS_URL": "redis+cluster://a", "CELERY_BROKER_URL": given})
    ours = Settings.from_env({"REDIS_URL": "redis+cluster://a", "CELERY_BROKER_URL": "amqp://b//"})
    assert ours.broker_url == "amqp://b//"


async def test_client_of_a_cluster_needs_another_broker_to_submit_but_not_to_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis+cluster://127.0.0.1:1")
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    with Client() as blocking, pytest.raises(SettingsError, match=r"set CELERY_BROKER_URL to"):
        blocking.submit("Hello")
    for client in (AsyncClient(), AsyncClient("redis+cluster://a:1", settings=Settings())):
        async with client:
            with pytest.raises(SettingsError, match="cannot hold the queue"):
                await client.submit("Hello")
            with pytest.raises(SettingsError, match="cannot hold the queue"):
                client.submit_and_stream("Hello")


@pytest.mark.parametrize("option", ["ssl_password=pw&ssl_certfile=/c", "ssl_ca_path=/c"])
def test_option_that_no_cluster_client_takes_is_refused(option: str) -> None:
    with pytest.raises(SettingsError, match="cannot be used with a cluster"):
        urls.redis(f"rediss+cluster://a?{option}")
