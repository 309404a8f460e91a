"""The Lua scripts, each a file with a header that says its keys, arguments and reply."""

import importlib.resources


def source(name: str) -> str:
    """The text of the script ``name`` (without ``.lua``), the prelude before it."""
    return _read("prelude") + _read(name)


def _read(name: str) -> str:
    return importlib.resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
