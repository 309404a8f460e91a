"""Make a foreign text fit to show: short, on one line, without secrets or prompt. Pure."""

import functools
import html
import itertools
import json
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from urllib.parse import quote, quote_plus

_HIDDEN: Final = "[hidden]"

# Matches what a browser or a terminal does not show. Each alternative ends with the text at the
# latest, so that no text takes more than linear time. "<" alone is no tag: "a < b" stays.
_MARKUP: Final = re.compile(
    r"\x1b\[[0-9;?]*[@-~]"
    r"|<!--.*?(?:-->|\Z)"
    r"|<(script|style)\b.*?(?:</\1\s*>|\Z)"
    r"|<(?:[!?]|/?[a-z])[^<>]*(?:>|\Z|(?=<))",
    re.IGNORECASE | re.DOTALL,
)
_READ_CHARS: Final = 12288
"""How much of a text is looked at: one event may have a megabyte, most of it markup."""
_CUT_CHARS: Final = 2048
"""Looked at too, and dropped: a secret that is cut is not recognized. Long secrets need more."""
_FORM_CHARS: Final = 6
"""Characters that an encoding may make of one: ``\\u0041``, ``&quot;``."""
_RUN_CHARS: Final = 16
_STRIDE: Final = 8
"""Runs are compared at each multiple of this. So any echo of 23 characters of a prompt is found: it
holds a whole run that starts at a multiple."""


_LARGE_CHARS: Final = 65536
"""A longer prompt is searched in one form, for fewer characters: the full search would delay other
jobs."""
_LARGE_LIMIT: Final = 250
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"\\/])|[bfnrt])")
_NO_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\[^\"\\/bfnrtu]")
"""Matches an escape that no JSON string has: then the text repeats the prompt unescaped."""
_BLANKS: Final = bytes(range(33)) + b"\x7f"
_BLANK_TO_SPACE: Final = bytes.maketrans(_BLANKS, b" " * len(_BLANKS))
_WIDE_SPACES: Final = [char.encode() for char in "\xa0\u2003\u2009\u200b\u2028\u202f\u3000\ufeff"]


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` without ``secrets``, also if they are URL-, JSON- or HTML-encoded."""
    return hider(secrets)(text)


def hider(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return :func:`hide` for ``secrets`` as a function: quick for many texts that hold none."""
    forms = {form for secret in secrets if secret for form in _forms(secret)}
    # The longest first: one form may begin with another.
    longest_first = sorted(forms, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    return functools.partial(pattern.sub, _HIDDEN) if forms else str


def hide_in_start(text: str, secrets: Iterable[str], hide_all: Callable[[str], str]) -> str:
    """Return ``hide_all`` of some 12,000 characters of ``text``, without half a secret at the end.

    ``hide_all`` hides ``secrets``, and may hide more.
    """
    dropped = max([_CUT_CHARS, *(_FORM_CHARS * len(secret) for secret in secrets)])
    start = text[: _READ_CHARS + dropped]
    hidden = hide_all(start)
    return hidden if len(start) == len(text) else hidden[:-dropped]


def clean(text: str, secrets: Iterable[str], limit: int) -> str:
    """Return at most ``limit`` characters of ``text``: printable, whitespace folded, no secrets."""
    # Bounded before the work is done: a line may have a megabyte.
    shown = hide(text[: 32 * limit], secrets)[: 4 * limit]
    return _short(_folded(shown), limit)


def words(text: str, secrets: Sequence[str], prompt: str, limit: int) -> str:
    """Return :func:`clean` of ``text``, the body of an error, without markup.

    Parts of the prompt are hidden too. A prompt of less than 8 characters is not: any text may
    hold it.
    """
    # Hidden first: markup may hold a secret, and taking it out may break one apart.
    shown = html.unescape(_MARKUP.sub(" ", hide_in_start(text, secrets, hider(secrets))))
    return _without(clean(shown, secrets, 2 * limit), prompt, limit)


def _without(text: str, prompt: str, limit: int) -> str:
    if len(prompt) > _LARGE_CHARS:
        limit = min(limit, _LARGE_LIMIT)
        text = _folded(_unescaped(text))[: limit + _RUN_CHARS + _STRIDE]
        sources = {_spaced(prompt)}
    else:
        sources = _echoes(prompt)
    hidden = bytearray(len(text))
    for source in sources:
        if len(source) < _RUN_CHARS + _STRIDE:
            for found in re.finditer(re.escape(source), text):
                hidden[slice(*found.span())] = b"\1" * len(source)
        for start in range(0, len(text) - _RUN_CHARS + 1, _STRIDE):
            if hidden[start : start + _RUN_CHARS].count(1) == _RUN_CHARS:
                continue
            place = source.find(text[start : start + _RUN_CHARS])
            if place >= 0:
                first, last = _grown(text, start, source, place)
                hidden[first:last] = b"\1" * (last - first)
    runs = itertools.groupby(zip(text, hidden, strict=True), key=operator.itemgetter(1))
    shown = "".join(_HIDDEN if is_echo else "".join(c for c, _ in run) for is_echo, run in runs)
    return _short(shown, limit)


def _grown(text: str, start: int, source: str, place: int) -> tuple[int, int]:
    """Return the bounds of the run around ``start`` that ``source`` has at ``place``."""
    first, last = start, start + _RUN_CHARS
    while first > 0 and place > 0 and text[first - 1] == source[place - 1]:
        first, place = first - 1, place - 1
    while (
        last < len(text) and text[last] == source[place + last - first : place + last - first + 1]
    ):
        last += 1
    return first, last


def _echoes(prompt: str) -> set[str]:
    """Return the forms that the prompt may have in a text of :func:`clean`."""
    if len(prompt.strip()) < _STRIDE:
        return set()
    quoted = (prompt, json.dumps(prompt)[1:-1], json.dumps(prompt, ensure_ascii=False)[1:-1])
    return {_folded(form) for form in quoted}


def _unescaped(text: str) -> str:
    """Return ``text`` without JSON's escapes, and without any other backslash."""
    if _NO_ESCAPE.search(text) is not None:
        return text.replace("\\", "")

    def char(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else (found[2] or " ").strip("\\")

    plain = _ESCAPE.sub(char, text).replace("\\", "")
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _spaced(prompt: str) -> str:
    """Return a large prompt, unquoted, nearly as :func:`_unescaped` and :func:`_folded` do."""
    data = prompt.encode("utf-8", "surrogatepass").translate(_BLANK_TO_SPACE, b"\\")
    if not data.isascii():
        for space in _WIDE_SPACES:
            data = data.replace(space, b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data.decode("utf-8", "replace")


def _folded(text: str) -> str:
    folded = " ".join(text.split())
    if folded.isprintable():
        return folded  # as most prompts are, of which some have a megabyte
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _forms(secret: str) -> set[str]:
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret)[1:-1].replace("/", "\\/"),
        json.dumps(secret, ensure_ascii=False)[1:-1],
        html.escape(secret),
    }
