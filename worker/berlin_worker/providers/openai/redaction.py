"""Make a server's words about one request fit to be shown: no key, no prompt, short. Pure."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from berlin_worker.telemetry.redact import hide, hide_in_start, words

_BASE64: Final = re.compile(r"(?:data:[^,]{0,200},)?[A-Za-z0-9+/_-]{4096}")
_ENDS_CHARS: Final = 8192
"""How much of a base64 file is looked for at each end: the whole would hold up other jobs."""

Show = Callable[[str], str]
"""Makes a server's words fit to be shown."""

_SHOWN_CHARS: Final = 500
_SHORT_CHARS: Final = range(8, 24)
"""Lengths of texts that are found only as a whole; :func:`words` finds parts of longer ones."""
_MOST_SHORT: Final = 64
_HIDDEN: Final = "[hidden]"
_EDGE_CHARS: Final = 3
"""Characters at each end of a wrong key that servers show, with asterisks or dots between."""
_KEYS: Final = re.compile(r"\b(?:sk-|AIza|Bearer )[A-Za-z0-9_-][A-Za-z0-9_.*-]{3,}")
"""Keys of others: a proxy may show the key that it uses for the next server."""
_WORD: Final = re.compile(r"[^\s\"'<>]{4,}")
_MASK: Final = re.compile(r"\*\*|\.\.|…|\bxxxx")
_MASKS: Final = ("**", "..", "…")


def shower(messages: Callable[[], Sequence[Mapping[str, Any]]], secrets: Sequence[str]) -> Show:
    """Return a function that takes ``secrets`` and the texts of ``messages`` out of a text.

    It returns at most 500 characters on one line. ``messages`` is called only for an error.
    """

    def show(text: str) -> str:
        texts = list(_texts(messages()))
        short = [each for each in texts if len(each) in _SHORT_CHARS][-_MOST_SHORT:]
        hashes = [hashlib.sha256(secret.encode()).hexdigest() for secret in secrets]
        whole = [*secrets, *hashes]

        def hide_all(text: str) -> str:
            # Whole secrets first: of a long one the others may hide a part.
            text = hide(hide(text, whole), short)
            for secret in secrets:
                text = _without_ends(text, secret)
            return _KEYS.sub(_HIDDEN, text)

        hidden = hide_in_start(text, whole, hide_all)
        return words(hidden, whole, "\n".join(texts), _SHOWN_CHARS)

    return show


def _without_ends(text: str, secret: str) -> str:
    """Hide masked forms of ``secret``: its first or last characters beside ``**``, ``..`` or x.

    Each word is passed a fixed number of times: no text takes more than linear time.
    """
    if len(secret) < 3 * _EDGE_CHARS or _MASK.search(text) is None:
        return text
    first, last = secret[:_EDGE_CHARS], re.compile(re.escape(secret[-_EDGE_CHARS:]) + r"\b")

    def shown(found: re.Match[str]) -> str:
        word, end = found[0], ""
        start = word.find(first)
        if start >= 0 and any(word.find(mask, start + _EDGE_CHARS) >= 0 for mask in _MASKS):
            word, end = word[:start], _HIDDEN
        if mask := _MASK.search(word):
            edges = [edge.end() for edge in last.finditer(word, mask.end())]
            if edges:
                word = word[: mask.start()] + _HIDDEN + word[edges[-1] :]
        return word + end

    return _WORD.sub(shown, text)


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a message, parts and tool calls included; of a long file its ends."""
    if isinstance(value, str):
        if len(value) > 2 * _ENDS_CHARS and _BASE64.match(value):
            yield value[:_ENDS_CHARS]
            yield value[-_ENDS_CHARS:]
        else:
            yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name not in {"role", "type"}:
                yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
