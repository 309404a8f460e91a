"""What may be told of a URL: where it points, never the secrets in it."""


def address(url: str) -> str:
    """``url`` without user, password and query; Sentinel's list of URLs likewise."""
    return ";".join(_bare(part) for part in url.split(";"))


def _bare(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    place = rest.rpartition("@")[2].partition("?")[0]
    return f"{scheme}{separator}{place}"
