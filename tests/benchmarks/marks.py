"""Write measured figures into a document, between its marks. Pure."""


def between(readme: str, name: str, text: str) -> str:
    """Return ``readme`` with ``text`` between the marks of ``name``; raises ``ValueError``."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in readme or end not in readme:
        raise ValueError(f"README.md: put {begin.strip()} and {end} at the place of the table")
    before, after = readme.index(begin) + len(begin), readme.index(end)
    return f"{readme[:before]}{text}\n{readme[after:]}"
