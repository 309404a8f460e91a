"""Text from stdin and files: terminals, closed or silent pipes, byte order marks."""

import codecs
import contextlib
import io
import json
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from berlin_worker.cli.errors import USAGE, Problem
from berlin_worker.cli.output import print_err, printable

PATIENCE_S: Final = 5.0
"""Maximum wait for the first byte of stdin if a prompt is given too."""
_MOST_BYTES: Final = 128 * 1024 * 1024
"""Far more than a job can hold; a bound for endless input such as /dev/zero."""
_PIECE_BYTES: Final = 65536

# UTF-32 comes first, because its little-endian mark begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(data: bytes, name: str) -> str:
    """Return the text in ``data``, in UTF-8 or the encoding of its byte order mark.

    Raises :class:`Problem` with ``name`` if the bytes are not text.
    """
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        shown = encoding.removesuffix("-sig").upper()
        raise _bad(f"{name} is not {shown} text (byte {error.start + 1})") from None
    if "\0" in text:
        raise _bad(f"{name} holds NUL characters: it is binary, or UTF-16 without a BOM")
    return text


def joined(prompt: str, text: str) -> str:
    """Return the prompt, a blank line, and the text of stdin."""
    text = _without_last_newline(text)
    return f"{prompt.rstrip()}\n\n{text}" if text.strip() else prompt


def prompt_text(prompt: str | None, *, use_stdin: bool | None) -> str:
    """Return the whole prompt, with the text of stdin.

    ``use_stdin``: ``True`` waits for the end of stdin, ``False`` does not read it, ``None`` joins
    it if its first byte comes within ``PATIENCE_S``. Raises ``click.UsageError`` without a prompt.
    """
    asked = prompt == "-" or bool(use_stdin)
    given = None if prompt == "-" else prompt
    if use_stdin is False:
        if given is None:
            raise click.UsageError("--no-stdin needs a PROMPT.")
        return given
    source = _stdin()
    if source is None or (source.isatty() and not asked):
        if given is None:
            raise click.UsageError("Give a PROMPT, - for stdin, or --file.")
        return given
    try:
        data = read_to_end(source, PATIENCE_S if given is not None and not asked else None)
    except OSError:
        if given is None or asked:
            raise
        return given  # stdin is not readable, for instance a directory
    if data is None:
        print_err(
            f"nothing has come on stdin for {PATIENCE_S:g} s: the prompt goes alone (--stdin "
            "waits longer, --no-stdin does not wait)"
        )
        return given or ""
    text = decode_text(data, "stdin")
    return joined(given, text) if given is not None else _without_last_newline(text)


def read_to_end(
    source: BinaryIO, patience_s: float | None = None, *, name: str = "stdin"
) -> bytes | None:
    """Read to the end. Return ``None`` if neither a byte nor the end comes in ``patience_s``.

    Raises :class:`Problem` for more than a job can hold.
    """
    fd = _descriptor(source)
    if fd is not None and patience_s is not None and not select.select([fd], [], [], patience_s)[0]:
        return None
    data = bytearray()
    for piece in pieces(source, name=name):
        data += piece
        if len(data) > _MOST_BYTES:
            raise _bad(f"{name} holds more than {_MOST_BYTES >> 20} MiB: too much for a job")
    return bytes(data)


def pieces(source: BinaryIO, *, name: str = "stdin") -> Iterator[bytes]:
    """Yield all bytes to the end, also of a non-blocking pipe. Print one notice while it waits."""
    fd = _descriptor(source)
    if fd is None:
        yield source.read()
        return
    hinted = False
    while True:
        while not select.select([fd], [], [], None if hinted else PATIENCE_S)[0]:
            print_err(f"waiting for the end of {printable(name)} ...", dim=True)
            hinted = True
        try:
            piece = os.read(fd, _PIECE_BYTES)
        except BlockingIOError:  # another process has read it
            continue
        if not piece:
            return
        yield piece


def _descriptor(source: BinaryIO) -> int | None:
    try:
        return source.fileno()
    except (OSError, ValueError):  # a test has replaced stdin by an object without a descriptor
        return None


def job_file(path: Path) -> dict[str, Any]:
    """Return the job object in a JSON file; ``-`` is stdin. Raises :class:`Problem`."""
    if str(path) == "-":
        source = _stdin()
        name, data = "stdin", b"" if source is None else read_to_end(source) or b""
    else:
        name = str(path)
        with path.open("rb") as file:
            data = read_to_end(file, name=name) or b""
    try:
        job = json.loads(decode_text(data, name))
    except (ValueError, RecursionError) as error:
        raise _bad(f"{name} is not JSON: {error}") from None
    if not isinstance(job, dict):
        raise _bad(f"{name} is not a JSON object, which a job is")
    return job


def _stdin() -> BinaryIO | None:
    """Return standard input, or ``None`` if the caller has closed it."""
    return sys.stdin.buffer if sys.stdin is not None and not sys.stdin.closed else None


def _without_last_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def utf8_lines(source: BinaryIO, name: str = "the input") -> Iterator[bytes]:
    """Yield the lines of a file as UTF-8, recoded if it has a mark of UTF-16 or UTF-32.

    Raises :class:`Problem` with ``name`` if the file does not match its mark.
    """
    head = source.read(4)
    source.seek(0)
    encoding = _encoding(head)
    if encoding in {"utf-8", "utf-8-sig"}:
        yield from source
        return
    text = io.TextIOWrapper(source, encoding, newline="\n")
    try:
        for line in text:
            yield line.encode(errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise _bad(f"{name} is not {encoding.upper()} text: {error.reason}") from None
    finally:
        with contextlib.suppress(ValueError):  # the file is closed already
            text.detach()


def _bad(message: str) -> Problem:
    return Problem(message, USAGE)


def _encoding(data: bytes) -> str:
    return next((found for mark, found in _MARKS if data.startswith(mark)), "utf-8")
