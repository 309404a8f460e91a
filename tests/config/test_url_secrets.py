"""No error and no address shows a part of a URL's password."""

import traceback
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
    """Return all text that an error holds or prints, with its causes and contexts."""
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
    """Return all text about URLs in the settings, or in their error."""
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
