"""Certificates that a Redis URL names are read before anything connects."""

from urllib.parse import quote

import pytest

from berlin_worker.client import AsyncClient, Client
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings
from tests.support.authority import Authority

pytestmark = pytest.mark.unit

SECRET = "QZXhunter"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    cert, key = authority.sign("one")
    _, other_key = authority.sign("two")
    locked, locked_key = authority.sign("locked", password=SECRET)
    garbage = folder / "garbage.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nno\n")
    return {
        "ca": str(authority.path),
        "cert": str(cert),
        "key": str(key),
        "other_key": str(other_key),
        "locked": str(locked),
        "locked_key": str(locked_key),
        "garbage": str(garbage),
        "folder": str(folder),
        "missing": str(folder / "missing.pem"),
    }


def url_of(files: dict[str, str], **options: str) -> str:
    query = "&".join(f"{name}={quote(files.get(text, text))}" for name, text in options.items())
    return f"rediss://:{SECRET}@host/0?{query}"


@pytest.mark.parametrize(
    "options",
    [
        {"ssl_ca_certs": "ca"},
        {"ssl_ca_path": "folder"},
        {"ssl_certfile": "cert", "ssl_keyfile": "key"},
        {"ssl_certfile": "locked", "ssl_keyfile": "locked_key", "ssl_password": SECRET},
    ],
)
def test_usable_urls_are_accepted(files: dict[str, str], options: dict[str, str]) -> None:
    url = url_of(files, **options)
    assert Settings.from_env({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ssl_ca_certs": "missing"}, r"ssl_ca_certs '.*missing.pem' cannot be read: No such file"),
        ({"ssl_ca_certs": "folder"}, r"ssl_ca_certs '.*' cannot be read: Is a directory"),
        ({"ssl_ca_certs": "garbage"}, r"ssl_ca_certs '.*' holds no certificate"),
        ({"ssl_ca_certs": "key"}, r"ssl_ca_certs '.*' holds no certificate"),
        ({"ssl_ca_path": "ca"}, r"ssl_ca_path '.*' cannot be read: Not a directory"),
        ({"ssl_ca_path": "\x00x"}, "ssl_ca_path '.*' cannot be read: it is no path"),
        ({"ssl_ca_path": "missing"}, r"ssl_ca_path '.*' cannot be read: No such file"),
        ({"ssl_certfile": "missing", "ssl_keyfile": "key"}, "ssl_certfile '.*' cannot be read"),
        ({"ssl_certfile": "cert", "ssl_keyfile": "missing"}, "ssl_keyfile '.*' cannot be read"),
        ({"ssl_certfile": "cert", "ssl_keyfile": "other_key"}, "is the key of another certificate"),
        ({"ssl_certfile": "garbage", "ssl_keyfile": "key"}, "ssl_certfile '.*' cannot be used"),
        ({"ssl_certfile": "cert"}, "ssl_certfile '.*' cannot be used with its key"),
        ({"ssl_certfile": "locked", "ssl_keyfile": "locked_key"}, "ssl_password that of the key"),
        (
            {"ssl_certfile": "locked", "ssl_keyfile": "locked_key", "ssl_password": f"{SECRET}!"},
            "ssl_password that of the key",
        ),
    ],
)
@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL"])
def test_unusable_certificate_is_named_with_its_file(
    files: dict[str, str], variable: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=rf"^{variable}( .*)?: .*{message}") as refused:
        Settings.from_env({variable: url_of(files, **options)})
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_client_refuses_at_once(files: dict[str, str]) -> None:
    url = url_of(files, ssl_ca_certs="missing")
    with pytest.raises(SettingsError, match=r"^redis_url: ssl_ca_certs"):
        AsyncClient(url)
    with pytest.raises(SettingsError, match=r"^broker_url: ssl_ca_certs"):
        AsyncClient(broker_url=url)
    with pytest.raises(SettingsError, match=r"^redis_url: ssl_ca_certs"):
        Client(url)


def test_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"ssl_ca_certs '.*' cannot be read: it is no path"):
        Settings.from_env({"REDIS_URL": "rediss://h?ssl_ca_certs=%00"})


def test_certificates_of_the_settings_reach_every_url_with_tls(files: dict[str, str]) -> None:
    given = {
        "WORKER_REDIS_CA": files["ca"],
        "WORKER_REDIS_CERT": files["cert"],
        "WORKER_REDIS_KEY": files["key"],
    }
    urls = {"REDIS_URL": "rediss+sentinel://a/m", "CELERY_BROKER_URL": "rediss://b"}
    found = Settings.from_env({**urls, **given})
    for url in (found.redis_url, found.broker_url):
        for path in given.values():
            assert path in url
    own = f"rediss://b?ssl_ca_certs={files['ca']}&ssl_certfile={files['locked']}"
    own += f"&ssl_keyfile={files['locked_key']}&ssl_password={SECRET}"
    assert Settings.from_env({"REDIS_URL": own, **given}).redis_url == own
    plain = Settings.from_env(
        {"REDIS_URL": "rediss://a", "CELERY_BROKER_URL": "redis://b", **given}
    )
    assert plain.broker_url == "redis://b"


@pytest.mark.parametrize(
    ("url", "setting", "file", "message"),
    [
        ("redis://b", "WORKER_REDIS_CA", "ca", "is set, but no URL asks for TLS"),
        ("rediss://b", "WORKER_REDIS_KEY", "key", ".*: set WORKER_REDIS_CERT"),
        ("rediss://b", "WORKER_REDIS_CA", "missing", ".* cannot be read"),
        ("rediss://b", "WORKER_REDIS_CA", "garbage", ".* holds no certificate"),
        ("rediss://b", "WORKER_REDIS_CERT", "garbage", ".* cannot be used"),
    ],
)
def test_setting_of_a_certificate_that_cannot_be_used_is_named(
    files: dict[str, str], url: str, setting: str, file: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{setting} {message}"):
        Settings.from_env({"REDIS_URL": url, setting: files[file]})
