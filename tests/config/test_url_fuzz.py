"""A URL of the settings is refused in one line, or the library that gets it takes it."""

from typing import Final

import amqp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu import Connection
from redis.asyncio.connection import parse_url
from yarl import URL

from berlin_worker.config import urls
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.errors import SettingsError
from berlin_worker.providers.openai import endpoints
from berlin_worker.settings import Settings
from tests.support.selection import examples

pytestmark = pytest.mark.unit

_HOSTS: Final = (
    *(
        "h",
        "",
        "a..b",
        ".",
        "a.",
        "a" * 64,
        "\N{LATIN SMALL LETTER A WITH DIAERESIS}" * 64,
        "xn--a",
    ),
    *(
        "h\u200b",
        "h|x",
        "h{",
        "a_b",
        "-a",
        "\u2100",
        "\uff41",
        "[::1]",
        "[::1%eth0]",
        "[::::]",
        "[1]",
    ),
    *("1.2.3.4.5", "h:", "h:1", "h:99999", ":1", "[::g]:1", " h", "h;", "h%41", "h\ud800", "h\x00"),
)
_USERS: Final = ("", "u@", "u:p@", ":p%00@", "%ff:%ud800@", "u:\ud800@", ":[@", "u:a%2Fb@")
_OPTIONS: Final = (
    *(
        "heartbeat",
        "connect_timeout",
        "login_method",
        "db",
        "virtual_host",
        "client_name",
        "protocol",
    ),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile"),
    *("ssl_keyfile", "ssl_password", "sentinel_username", "sentinel_password", "master_name", "x"),
)
_OPTION_VALUES: Final = (
    *("", "x", "0", "5", "5.5", "-1", "1e999", "nan", "9" * 30, "99999", "\u0663", "%00x", "%ff"),
    *(
        "PLAIN",
        "EXTERNAL",
        "plain",
        "true",
        "none",
        "a%20b",
        "/",
        "a\ud800b",
        "%C3%A4",
        "a;b",
        "a\nb",
    ),
)
_PATHS: Final = (
    "",
    "/",
    "/0",
    "/x",
    "//",
    "/m/1",
    "/%00",
    "/%2F",
    "/a;b",
    "/\ud800",
    "/v1",
    "/\u00e4",
)
_SCHEMES: Final = (
    *("redis", "rediss", "unix", "redis+socket", "redis+sentinel", "rediss+sentinel", "sentinel"),
    *("redis+cluster", "rediss+cluster", "amqp", "amqps", "pyamqp", "http", "https"),
)


def _urls() -> st.SearchStrategy[str]:
    options = st.builds("{}={}".format, st.sampled_from(_OPTIONS), st.sampled_from(_OPTION_VALUES))
    query = st.lists(options, max_size=2).map(lambda each: "?" + "&".join(each) if each else "")
    hosts = st.lists(st.sampled_from(_HOSTS), min_size=1, max_size=2).map(",".join)
    return st.builds(
        "{}://{}{}{}{}".format,
        st.sampled_from(_SCHEMES),
        st.sampled_from(_USERS),
        st.sampled_from(_HOSTS) | hosts,
        st.sampled_from(_PATHS),
        query,
    )


@settings(max_examples=examples(150))
@example("CELERY_BROKER_URL", "amqp://h?heartbeat=x")
@example("CELERY_BROKER_URL", "amqp://h?connect_timeout=5")
@example("CELERY_BROKER_URL", "amqp://h?login_method=x")
@example("REDIS_URL", "rediss://h?ssl_ca_path=%00x")
@example("OPENAI_BASE_URL", "http://:11434/v1")
@example("WORKER_ENDPOINTS", "x=http://:11434/v1")
@example("WORKER_ENDPOINT_PROXY_X", "http://[::g]:1")
@given(
    st.sampled_from(
        ["REDIS_URL", "CELERY_BROKER_URL", "BERLIN_URL", "BERLIN_PROXY", "OPENAI_BASE_URL",
         "OPENAI_PROXY", "WORKER_PROXY_ALLOWLIST", "WORKER_ENDPOINTS", "WORKER_ENDPOINT_PROXY_X"]
    ),
    _urls(),
)  # fmt: skip
def test_url_is_refused_in_one_line_or_its_library_takes_it(variable: str, url: str) -> None:
    value = f"x={url}" if variable == "WORKER_ENDPOINTS" and "=http" not in url else url
    environ = {"WORKER_ENDPOINTS": "x=http://h/v1", "BERLIN_ACCOUNT": "a", "BERLIN_PASSWORD": "p",
               "OPENAI_API_KEY": "k", variable: value}  # fmt: skip
    refused = ""
    try:
        found = Settings.from_env(environ, needs_broker=False)
        endpoint = endpoints.find("x", found, environ)
    except SettingsError as error:
        refused = str(error)
    if refused:
        assert refused.startswith(variable)
        assert "\n" not in refused
        return
    for each in (found.berlin_url, found.berlin_proxy, found.openai_url, found.openai_proxy,
                 *found.proxies, endpoint.url, endpoint.proxy):  # fmt: skip
        assert not each or URL(each).host, each
    assert endpoint.secrets is not None
    for redis in {found.redis_url, found.broker_url} - {""}:
        if urls.is_redis(redis):
            for host, port in [] if "unix:" in redis else urls.parse_redis(redis, variable).nodes:
                assert host.encode("idna") is not None
                assert port in range(1, 65536)
            parse_url(urls.parse_redis(redis, variable).at("h"))
    if not found.broker_url:
        return
    broker = for_kombu(found.broker_url)
    with Connection(broker.url, transport_options=broker.transport_options) as connection:
        if broker.url.startswith(("amqp", "pyamqp")):
            amqp.Connection(
                login_method=connection.login_method or "PLAIN", heartbeat=connection.heartbeat
            )
            assert isinstance(connection.connect_timeout, int)
            assert (connection.heartbeat or 0) < 65536
