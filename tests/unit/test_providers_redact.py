"""Foreign texts are shown without secrets, on one line, and short."""

import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.providers.redact import clean, hide

SECRET = 'pä"ss/w+rd & <more>'


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        SECRET.upper(),
        quote(SECRET),
        quote(SECRET, safe="").lower(),
        quote_plus(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET).replace("/", "\\/"),
        json.dumps(SECRET, ensure_ascii=False),
        html.escape(SECRET),
    ],
)
def test_a_secret_is_hidden_in_every_encoding(form: str) -> None:
    assert hide(f"<{form}>", [SECRET]).strip('"<>') == "[hidden]"


def test_the_longer_of_two_secrets_is_hidden_whole() -> None:
    assert hide("abc abcdef", ["abc", "abcdef"]) == "[hidden] [hidden]"


def test_no_secret_hides_nothing() -> None:
    assert hide("a.b", ["", "."]) == "a[hidden]b"
    assert hide("text", []) == "text"


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_what_is_shown_is_one_short_printable_line(text: str, limit: int) -> None:
    shown = clean(text, [], limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode()


def test_control_characters_do_not_break_a_secret_out_of_its_hiding() -> None:
    assert clean("x\x1b[31m\n\u202eto\tken!", ["to\tken"], 50) == "x [31m [hidden]!"


def test_a_secret_at_the_cut_is_hidden_and_not_halved() -> None:
    assert "sec" not in clean("x" * 8 + "secret", ["secret"], 12)
