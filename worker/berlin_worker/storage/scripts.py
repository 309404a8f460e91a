"""Load the Lua scripts: a file each in ``lua/``, with keys, arguments and reply in its header."""

import hashlib
from importlib.resources import files


def source(name: str, *before: str, first: str = "") -> str:
    """Return the prelude, the scripts ``before`` and the script ``name`` (without ``.lua``).

    The script ``first`` precedes the prelude: it uses no function of the prelude.
    """
    return "".join(map(_read, filter(None, (first, "prelude", *before, name))))


def sha1(script: str) -> str:
    """Return the digest by which EVALSHA calls a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _read(name: str) -> str:
    return files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
