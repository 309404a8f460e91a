"""What may be told of a URL: where it points, never the secrets in it."""

import re
from typing import Final

_LIST: Final = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)")


def address(url: str) -> str:
    """``url`` without user, password and query; Sentinel's list of URLs likewise."""
    return ";".join(_bare(part) for part in _LIST.split(url))


def _bare(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    # With an "@" in it nobody can tell a query from the rest of a password: then it is not told.
    before, _, after = rest.partition("?")
    place = "" if "@" in after else before.rpartition("@")[2]
    return f"{scheme}{separator}{place}"
