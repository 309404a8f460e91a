"""What may be shown of a foreign text: short, on one line, without secrets. Pure."""

import functools
import html
import json
import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import quote, quote_plus

_HIDDEN: Final = "[hidden]"


def hide(text: str, secrets: Iterable[str]) -> str:
    """``text`` without ``secrets``, also where they are URL-, JSON- or HTML-encoded."""
    return hider(secrets)(text)


def hider(secrets: Iterable[str]) -> Callable[[str], str]:
    """The same as a function of many texts, of which few hold a secret."""
    forms = {form for secret in secrets if secret for form in _forms(secret)}
    # The longest first: one form may begin with another.
    longest_first = sorted(forms, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    return functools.partial(pattern.sub, _HIDDEN) if forms else str


def clean(text: str, secrets: Iterable[str], limit: int) -> str:
    """At most ``limit`` characters of ``text``, printable, whitespace folded, secrets hidden."""
    # Bounded before the work is done: a line may have a megabyte.
    shown = hide(text[: 32 * limit], secrets)[: 4 * limit]
    printable = "".join(char if char.isprintable() else " " for char in shown)
    folded = " ".join(printable.split())
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"


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
