"""What may be told of a URL: where it points, never the secrets in it."""


def address(url: str) -> str:
    """``url`` without user, password and query; Sentinel's list of URLs likewise."""
    return ";".join(_bare(part) for part in url.split(";"))


def _bare(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    before, _, after = rest.partition("?")
    # With an "@" in it nobody can tell a query from the rest of a password: then it is not told.
    place = "" if "@" in after else before.rpartition("@")[2]
    return f"{scheme}{separator}{place}"
