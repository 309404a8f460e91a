"""Paths on the command line, in any locale."""

import os
from pathlib import Path
from typing import Any

import click


class FilePath(click.Path):
    """A path as ``pathlib.Path``.

    Words of the command line are UTF-8 in any locale, also in one of ASCII, whose file names Python
    writes with surrogates.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; raises ``BadParameter`` as :class:`click.Path` does."""
        return super().convert(as_file_name(os.fspath(value)), param, ctx)


def as_file_name(word: str) -> str:
    """Return a word of the command line as the name of a file in this locale."""
    return os.fsdecode(word.encode(errors="surrogateescape"))
