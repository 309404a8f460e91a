"""Show where a URL points, without the secrets in it."""

import re
from typing import Final

_LIST: Final = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)")


def address(url: str) -> str:
    """Return ``url``, or a list of Sentinels, without user, password and query."""
    return ";".join(_bare(part) for part in _LIST.split(url))


def _bare(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    # A query with an "@" may be the rest of a password, so the whole place stays hidden.
    before, _, after = rest.partition("?")
    place = "" if "@" in after else before.rpartition("@")[2]
    return f"{scheme}{separator}{place}"
