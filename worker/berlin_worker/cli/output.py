"""Text for terminals: without control characters, and only characters of its encoding."""

import codecs
import contextlib
import os
import sys
from typing import Any, Final, TextIO

import click

_CONTROLS: Final[dict[int, str]] = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
    0x7F: "\u2421",
    ord("\n"): "\n",
    ord("\t"): "\t",
    ord("\r"): "",
}

_ERRORS: Final = "berlin_nearest"
"""Name of the codec error handler that writes the nearest characters, or ``?``."""

_NEAREST: Final[dict[str, str]] = {
    **{
        chr(0x2400 + code): f"^{chr(0x40 + code)}" for code in range(0x20)
    },  # in the notation of cat -v
    **dict.fromkeys("\u2018\u2019\u201a\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys(
        "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2500\u2501\u2550\u2578\u257a", "-"
    ),
    **dict.fromkeys("\u2502\u2503\u2551", "|"),
    **dict.fromkeys("\u2022\u00b7\u25cf", "*"),
    "\u2192": "->",
    "\u2190": "<-",
    "\u2026": "...",
    "\u00d7": "x",
    "\u00df": "ss",
    "\u00b5": "u",
    "\u03bc": "u",
    "\u20ac": "EUR",
}


def printable(text: str) -> str:
    """Return ``text`` without control characters, which could control a terminal.

    They become symbols such as ␛. Newlines and tabs stay, carriage returns are removed.
    """
    return text.translate(_CONTROLS)


def encoded(text: str, encoding: str) -> bytes:
    """Encode ``text``. Replaces missing characters by the nearest ones, and never raises."""
    return text.encode(encoding, _ERRORS)


def fitting(text: str, stream: TextIO | None) -> str:
    """Return ``text`` with only characters that the encoding of ``stream`` has."""
    encoding = encoding_of(stream)
    return encoded(text, encoding).decode(encoding)


def encoding_of(stream: TextIO | None) -> str:
    """Return Python's name for the encoding of a text stream, UTF-8 by default."""
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name
    except LookupError:
        return "utf-8"


def print_out(text: str, **style: Any) -> None:
    """Write one line to stdout, styled if that is a terminal."""
    click.secho(fitting(text, sys.stdout), **style)


def print_err(text: str, **style: Any) -> None:
    """Write one line to stderr, styled if that is a terminal. Never raises."""
    with contextlib.suppress(OSError, ValueError):  # a closed stderr does not end the work
        click.secho(fitting(text, sys.stderr), err=True, **style)


def use_nearest_characters() -> None:
    """Set the error handler of stdout and stderr, so that no library fails to write."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_ERRORS)


def utf8_word(word: str) -> str:
    """Return a word of the command line decoded as UTF-8, whatever the locale."""
    if word.isascii():
        return word
    try:
        return word.encode(errors="surrogateescape").decode()
    except UnicodeError:
        return word


def wants_color(no_color: str, force_color: str, term: str) -> bool | None:
    """Return whether to colour; ``None`` means: if the output is a terminal.

    ``NO_COLOR`` (not empty) wins over ``FORCE_COLOR`` (neither empty nor 0); ``TERM=dumb`` is a
    terminal without colours.
    """
    if no_color:
        return False
    if force_color not in {"", "0"}:
        return True
    return False if term == "dumb" else None


def age(seconds: float, *, decimals: int = 0) -> str:
    """Format a long time in its largest unit; ``decimals`` are those of seconds."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{max(seconds, 0):.{decimals}f} s"


def discard_unwritable() -> None:
    """Discard buffered output that cannot be written: Python would try again at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            discard(sys.stdout.fileno())


def discard(fd: int) -> None:
    """Redirect a file descriptor to ``/dev/null``."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, fd)
    os.close(nowhere)


def _nearest(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    import unicodedata  # loaded only if a character is missing

    found = []
    for char in error.object[error.start : error.end]:
        plain = unicodedata.normalize("NFKD", char)
        near = _NEAREST.get(char) or "".join(filter(str.isascii, plain))
        found.append(near or "?")
    return "".join(found), error.end


codecs.register_error(_ERRORS, _nearest)
