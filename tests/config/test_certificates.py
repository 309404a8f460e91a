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
def test_what_can_be_used_is_taken(files: dict[str, str], options: dict[str, str]) -> None:
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
def test_what_cannot_be_used_is_named_with_its_file(
    files: dict[str, str], variable: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=rf"^{variable}( .*)?: .*{message}") as refused:
        Settings.from_env({variable: url_of(files, **options)})
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_client_refuses_at_once(files: dict[str, str]) -> None:
    url = url_of(files, ssl_ca_certs="missing")
    with pytest.raises(SettingsError, match=r"^redis_url: ssl_ca_certs"):
        AsyncClient(url)
    with pytest.raises(SettingsError, match=r"^broker_url: ssl_ca_certs"):
        AsyncClient(broker_url=url)
    with pytest.raises(SettingsError, match=r"^redis_url: ssl_ca_certs"):
        Client(url)


def test_a_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"ssl_ca_certs '.*' cannot be read: it is no path"):
        Settings.from_env({"REDIS_URL": "rediss://h?ssl_ca_certs=%00"})
