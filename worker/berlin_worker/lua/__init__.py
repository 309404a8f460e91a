"""The Lua scripts, each a file with a header that says its keys, arguments and reply."""

import hashlib
import importlib.resources


def source(name: str, *before: str) -> str:
    """The text of the script ``name`` (without ``.lua``), the prelude and ``before`` before it."""
    return "".join(map(_read, ("prelude", *before, name)))


def sha1(script: str) -> str:
    """By what EVALSHA names a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _read(name: str) -> str:
    return importlib.resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
