"""Make a server's words about one request fit to be shown: no key, no prompt, short. Pure."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from berlin_worker.telemetry.redact import hide, words

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
_KEYS: Final = re.compile(r"\b(?:sk-|AIza|Bearer )[A-Za-z0-9_-][A-Za-z0-9_.*-]{3,200}")
"""Keys of others: a proxy may show the key that it uses for the next server."""


def shower(messages: Callable[[], Sequence[Mapping[str, Any]]], secrets: Sequence[str]) -> Show:
    """Return a function that takes ``secrets`` and the texts of ``messages`` out of a text.

    It returns at most 500 characters on one line. ``messages`` is called only for an error.
    """

    def show(text: str) -> str:
        texts = list(_texts(messages()))
        short = [each for each in texts if len(each) in _SHORT_CHARS][-_MOST_SHORT:]
        for secret in secrets:
            text = _without_ends(text, secret)
        hashes = [hashlib.sha256(secret.encode()).hexdigest() for secret in secrets]
        hidden = hide(_KEYS.sub(_HIDDEN, text), short)
        return words(hidden, [*secrets, *hashes], "\n".join(texts), _SHOWN_CHARS)

    return show


def _without_ends(text: str, secret: str) -> str:
    """Hide masked forms of ``secret``: its first or last characters beside ``**``, ``..`` or x."""
    if len(secret) < 3 * _EDGE_CHARS:
        return text
    first, last = re.escape(secret[:_EDGE_CHARS]), re.escape(secret[-_EDGE_CHARS:])
    masked = rf"{first}[^\s\"'<>]{{0,200}}?(?:\*{{2,}}|\.{{2,}}|…)[^\s\"'<>]{{0,200}}"
    text = re.sub(masked, _HIDDEN, text)
    return re.sub(rf"(?:\*{{2,}}|\.{{2,}}|…|\bx{{4,}})[^\s\"'<>]{{0,200}}?{last}\b", _HIDDEN, text)


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
