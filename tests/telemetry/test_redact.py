"""Foreign texts are shown without secrets, on one line, and short."""

import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.telemetry.redact import clean, hide, words

pytestmark = pytest.mark.unit

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
def test_secret_is_hidden_in_every_encoding(form: str) -> None:
    assert hide(f"<{form}>", [SECRET]).strip('"<>') == "[hidden]"


def test_longer_of_two_secrets_is_hidden_whole() -> None:
    assert hide("abc abcdef", ["abc", "abcdef"]) == "[hidden] [hidden]"


def test_no_secret_hides_nothing() -> None:
    assert hide("a.b", ["", "."]) == "a[hidden]b"
    assert hide("text", []) == "text"


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_shown_text_is_one_short_printable_line(text: str, limit: int) -> None:
    shown = clean(text, [], limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode()


def test_control_characters_do_not_break_a_secret_out_of_its_hiding() -> None:
    assert clean("x\x1b[31m\n\u202eto\tken!", ["to\tken"], 50) == "x [31m [hidden]!"


def test_secret_at_the_cut_is_hidden_and_not_halved() -> None:
    assert "sec" not in clean("x" * 8 + "secret", ["secret"], 12)


PAGE = """<!DOCTYPE html>\r\n<html><head><title>502 Bad Gateway</title>
<style>body { color: red }</style><script>alert("x < y")</script></head>
<body class="a>b"><!-- hidden <b>note</b> -->
<h1>Bad&nbsp;&amp; broken</h1><hr>nginx</body></html>"""


def test_words_of_a_page_are_its_visible_text() -> None:
    assert words(PAGE, [], "", 200) == '502 Bad Gateway b"> Bad & broken nginx'
    assert words("a < b and c > d, 1<2", [], "", 200) == "a < b and c > d, 1<2"
    assert words("\x1b[31mred\x1b[0m\x00\u202e", [], "", 200) == "red"


@pytest.mark.parametrize("rest", ["<script>never ended", "<!-- never ended", '<a href="', "<style"])
def test_cut_off_markup_is_not_text(rest: str) -> None:
    assert words(f"busy {rest}", [], "", 200) == "busy"


@pytest.mark.parametrize("opening", ["<!--", "<script>", "<a", "<", "<style ", "&#", "\x1b["])
def test_repeated_markup_takes_linear_time(opening: str) -> None:
    # Quadratic time would be minutes.
    assert len(words(opening * 200_000, [], opening * 200_000, 200)) <= 200


@given(st.text(), st.text(), st.integers(min_value=8, max_value=50))
def test_words_are_one_short_printable_line(text: str, prompt: str, limit: int) -> None:
    shown = words(text, [], prompt, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode()


def test_secret_in_markup_is_hidden() -> None:
    assert "tok" not in words('<p>a tok&amp;en, <a href="tok&amp;en">x', ["tok&en"], "", 200)


PROMPT = 'Write a poem\nabout "rivers" & the <sea>, in the style of somebody famous'


@pytest.mark.parametrize(
    "echo",
    [
        PROMPT,
        json.dumps(PROMPT),
        PROMPT[:40],
        PROMPT[-30:],
        f"<pre>{html.escape(PROMPT)}</pre>",
        json.dumps({"error": {"prompt": PROMPT}}, indent=2),
        PROMPT.replace("\n", "\r\n\t  "),
    ],
)
@pytest.mark.parametrize(
    "before", ["", "Tolstoi, \u0412\u043e\u0439\u043d\u0430\n  " * 5000, '{"x":  "\\n"}\n' * 9000]
)
def test_echoed_prompt_is_hidden_whole_or_in_part(echo: str, before: str) -> None:
    shown = words(f"refused: {echo} is too long", [], before + PROMPT, 200)
    assert shown.startswith("refused:")
    assert "[hidden]" in shown
    assert shown.endswith("is too long")
    for word in ("poem", "rivers", "famous"):
        assert word not in shown


SCRIPTS = r"Мой дядя самых честных правил 😀 \frac{\alpha}{\nu} \times " + "漢字かな" * 5


@pytest.mark.parametrize(
    "echo", [SCRIPTS, json.dumps(SCRIPTS), json.dumps(SCRIPTS, ensure_ascii=False)]
)
def test_echo_of_a_large_prompt_is_hidden_in_every_script(echo: str) -> None:
    prompt = "0 " * 40_000 + SCRIPTS.replace(" 漢", "\u3000\n漢")
    shown = words(f"refused: {echo} is too long", [], prompt, 200)
    assert shown.replace('"', "").replace(" ", "") == "refused:[hidden]istoolong"


def test_short_prompt_is_hidden_as_a_whole_and_a_tiny_one_never() -> None:
    assert (
        words("no answer to MARKER-77 today", [], "MARKER-77", 200) == "no answer to [hidden] today"
    )
    assert words("Hello, I am busy", [], "Hello", 200) == "Hello, I am busy"
