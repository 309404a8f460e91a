"""The Lua scripts, each a file with a header that says its keys, arguments and reply."""

import importlib.resources


def source(name: str) -> str:
    """The text of the script ``name`` (without ``.lua``)."""
    return importlib.resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
