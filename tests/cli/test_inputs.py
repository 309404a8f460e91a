"""Prompts from stdin and files: how they join, when the command waits, and invalid text."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.cli import inputs
from berlin_worker.cli.errors import Problem
from berlin_worker.cli.inputs import decode_text, job_file, joined, prompt_text, utf8_lines

pytestmark = pytest.mark.unit

Encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
Text = st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]))


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make stdin a pipe; yield its write end, which the test closes."""
    ours, theirs = os.pipe()
    with open(ours, "rb") as raw:  # noqa: PTH123  # a file descriptor
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
        yield theirs


@contextlib.contextmanager
def stdin_is(path: Path | str) -> Iterator[None]:
    with Path(path).open() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", file)
        yield


# --- Text ----------------------------------------------------------------------------------


@given(Text, Encodings)
def test_byte_order_mark_sets_the_encoding_and_is_removed(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding), "it") == text


@given(st.lists(Text.map(lambda text: text.replace("\n", ""))), Encodings)
def test_lines_of_a_file_with_a_mark_are_recoded(lines: list[str], encoding: str) -> None:
    text = "".join(f"{line}\n" for line in lines)
    found = b"".join(utf8_lines(io.BytesIO(text.encode(encoding))))
    assert found.removeprefix(b"\xef\xbb\xbf") == text.encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"abc\xff", "it is not UTF-8 text (byte 4)"),
        (b"\xff\xfea", "it is not UTF-16 text"),
        ("text".encode("utf-16-le"), "it holds NUL characters"),
        (b"\x7fELF\0\0", "it holds NUL characters"),
    ],
)
def test_binary_data_is_one_line(data: bytes, expected: str) -> None:
    with pytest.raises(
        Problem, match="^" + expected.replace("(", r"\(").replace(")", r"\)")
    ) as found:
        decode_text(data, "it")
    assert found.value.exit_code == 2


@pytest.mark.parametrize(
    ("prompt", "text", "whole"),
    [
        ("Summarise", "text\n", "Summarise\n\ntext"),
        ("Summarise\n", "  indented\r\n", "Summarise\n\n  indented"),
        ("Summarise", "a\n\nb\n\n", "Summarise\n\na\n\nb\n"),
        ("Hello", "", "Hello"),
        ("Hello", " \n\n", "Hello"),
    ],
)
def test_stdin_follows_the_prompt_after_a_blank_line(prompt: str, text: str, whole: str) -> None:
    assert joined(prompt, text) == whole


# --- Stdin ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "use_stdin", "whole"),
    [
        ("Summarise", None, "Summarise\n\nthe text"),
        ("Summarise", True, "Summarise\n\nthe text"),
        ("Summarise", False, "Summarise"),
        ("-", None, "the text"),
        (None, None, "the text"),
        (None, True, "the text"),
    ],
)
def test_pipe_joins_the_prompt(
    pipe: int, prompt: str | None, use_stdin: bool | None, whole: str
) -> None:
    os.write(pipe, b"\xef\xbb\xbfthe text\n")
    os.close(pipe)
    assert prompt_text(prompt, use_stdin=use_stdin) == whole


def test_file_joins_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("the text")
    with stdin_is(tmp_path / "f"):
        assert prompt_text("Summarise", use_stdin=None) == "Summarise\n\nthe text"


def test_empty_stdin_adds_nothing() -> None:
    with stdin_is(os.devnull):
        assert prompt_text("Hello", use_stdin=None) == "Hello"


def test_closed_stdin_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert prompt_text("Hello", use_stdin=None) == "Hello"
    for prompt in (None, "-"):
        with pytest.raises(click.UsageError, match="Give a PROMPT"):
            prompt_text(prompt, use_stdin=None)


def test_stdin_that_cannot_be_read_adds_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)  # a directory

    class Directory:
        closed = False
        buffer = None

        def fileno(self) -> int:
            return fd

        def isatty(self) -> bool:
            return False

    directory = Directory()
    monkeypatch.setattr(inputs, "_stdin", lambda: directory)
    assert prompt_text("Hello", use_stdin=None) == "Hello"
    with pytest.raises(OSError, match="directory"):
        prompt_text("-", use_stdin=None)
    os.close(fd)


def test_terminal_is_read_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    os.write(ours, b"typed\n\x04")
    with open(theirs, "rb", buffering=0) as raw:  # noqa: PTH123  # a file descriptor
        monkeypatch.setattr(inputs, "_stdin", lambda: raw)
        assert prompt_text("Hello", use_stdin=None) == "Hello"
        with pytest.raises(click.UsageError, match="Give a PROMPT"):
            prompt_text(None, use_stdin=None)
        assert prompt_text("-", use_stdin=None) == "typed"
    os.close(ours)


def test_silent_pipe_beside_a_prompt_is_skipped_with_a_notice(
    pipe: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inputs, "PATIENCE_S", 0.01)
    assert prompt_text("Hello", use_stdin=None) == "Hello"
    err = capsys.readouterr().err
    assert "the prompt goes alone" in err
    assert len(err.splitlines()) == 1
    os.close(pipe)


@contextlib.contextmanager
def writes_once_awaited(pipe: int, data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write ``data`` and close ``pipe`` when the command prints that it waits for stdin."""
    waits = threading.Event()
    monkeypatch.setattr(inputs, "PATIENCE_S", 0.01)
    monkeypatch.setattr(inputs, "print_err", lambda expected, **_: waits.set())

    def write() -> None:
        waits.wait()
        os.write(pipe, data)
        os.close(pipe)

    writer = threading.Thread(target=write)
    writer.start()
    yield
    writer.join()


@pytest.mark.parametrize(("prompt", "use_stdin"), [("Hello", True), ("-", None), (None, None)])
def test_slow_pipe_is_awaited_with_stdin_option(
    pipe: int,
    prompt: str | None,
    use_stdin: bool | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with writes_once_awaited(pipe, b"late", monkeypatch):
        assert prompt_text(prompt, use_stdin=use_stdin).endswith("late")


def test_stdin_is_read_to_its_end_after_the_first_byte(
    pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.write(pipe, b"first, ")
    with writes_once_awaited(pipe, b"last", monkeypatch):
        assert prompt_text("Hello", use_stdin=None) == "Hello\n\nfirst, last"


def test_endless_stdin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_MOST_BYTES", 1 << 20)
    with stdin_is("/dev/zero"), pytest.raises(Problem, match="more than"):
        prompt_text("-", use_stdin=None)


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1])
def test_file_is_bounded_as_stdin_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(inputs, "_MOST_BYTES", 1 << 20)
    with pytest.raises(Problem, match="/dev/zero holds more than 1 MiB"):
        job_file(Path("/dev/zero"))
    path = tmp_path / "job.json"
    path.write_text('{"messages": []}'.ljust(size))
    with pytest.raises(Problem) if size > 1 << 20 else contextlib.nullcontext():
        assert job_file(path) == {"messages": []}


@given(st.lists(st.binary(max_size=1000), max_size=20))
def test_non_blocking_pipe_is_read_to_its_end(parts: list[bytes]) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    waiting = iter(parts)

    def ready(*_: object) -> tuple[list[int]]:
        # The next part comes once the one before was read. For an empty part nothing has come.
        part = next(waiting, None)
        if part is None:
            os.close(theirs)
        else:
            os.write(theirs, part)
        return ([ours],)

    with open(ours, "rb", buffering=0) as source, pytest.MonkeyPatch.context() as patch:  # noqa: PTH123  # a file descriptor
        patch.setattr(inputs, "select", SimpleNamespace(select=ready))
        assert b"".join(inputs.pieces(source)) == b"".join(parts)


def test_no_stdin_needs_a_prompt() -> None:
    for prompt in (None, "-"):
        with pytest.raises(click.UsageError, match="--no-stdin needs a PROMPT"):
            prompt_text(prompt, use_stdin=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_job_file_may_have_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"messages": []}', encoding)
    assert job_file(path) == {"messages": []}


def test_job_is_read_from_stdin(pipe: int) -> None:
    os.write(pipe, b'{"messages": []}')
    os.close(pipe)
    assert job_file(Path("-")) == {"messages": []}
