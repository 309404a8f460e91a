"""Output fits the encoding and the settings of the terminal, and raises nothing."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.cli import output
from berlin_worker.cli.output import encoded, fitting, utf8_word, wants_color

pytestmark = pytest.mark.unit

ENCODINGS = ["ascii", "latin-1", "iso8859-15", "cp1252", "cp437", "koi8-r", "shift_jis", "utf-8"]


@given(st.text(st.characters(exclude_categories=[])), st.sampled_from(ENCODINGS))
def test_no_text_raises_in_any_encoding(text: str, encoding: str) -> None:
    data = encoded(text, encoding)
    assert encoded(data.decode(encoding), encoding) == data
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert encoded(text, "utf-8") == text.encode()


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("“x” \u2013 it\u2019s…", "ascii", '"x" - it\'s...'),
        ("naïve Straße", "ascii", "naive Strasse"),
        ("naïve Straße →", "latin-1", "naïve Straße ->"),
        ("│─• 😀 中", "ascii", "|-* ? ?"),
        ("␛[2J", "ascii", "^[[2J"),
        ("half \ud800 a pair", "utf-8", "half ? a pair"),
    ],
)
def test_missing_character_becomes_the_nearest(text: str, encoding: str, shown: str) -> None:
    assert encoded(text, encoding).decode(encoding) == shown


def test_stream_of_an_unknown_encoding_counts_as_utf_8() -> None:
    class Odd(io.StringIO):
        encoding = "no-such-encoding"  # type: ignore[assignment]  # as a broken wrapper has it

    assert fitting("ü😀", Odd()) == "ü😀"
    assert fitting("ü😀", None) == "ü😀"


def test_output_of_libraries_raises_in_no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "latin-1", write_through=True))
    output.use_nearest_characters()
    sys.stdout.write("┌ 😀 ü")
    assert raw.getvalue() == "? ? ü".encode("latin-1")


@pytest.mark.parametrize(
    ("no_color", "force_color", "term", "wanted"),
    [
        ("", "", "xterm", None),
        ("1", "", "xterm", False),
        ("0", "", "xterm", False),  # any value counts (no-color.org)
        ("1", "1", "xterm", False),
        ("", "1", "", True),
        ("", "0", "xterm", None),
        ("", "", "dumb", False),
        ("", "1", "dumb", True),
    ],
)
def test_colours_follow_the_environment(
    no_color: str, force_color: str, term: str, wanted: bool | None
) -> None:
    assert wants_color(no_color, force_color, term) is wanted


@given(st.text(), st.sampled_from(["ascii", "utf-8"]))
def test_word_in_utf_8_is_that_word_in_any_locale(text: str, locale: str) -> None:
    assert utf8_word(text.encode().decode(locale, "surrogateescape")) == text


def test_word_that_is_not_utf_8_stays_unchanged() -> None:
    assert utf8_word("a\udcff") == "a\udcff"
