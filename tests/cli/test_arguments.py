"""Any words on the command line: an exit code and plain text, never a traceback."""

import contextlib
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from berlin_worker.cli import COMMANDS, main

pytestmark = pytest.mark.unit

DEEP = "[" * 900 + "]" * 900
"""JSON that Python reads or refuses, depending on how much of its stack is in use."""
FILES = {
    "empty": "",
    "open": "[" * 100_000,
    "deep": f'{{"messages": [{{"role": "user", "content": "x"}}], "metadata": {{"a": {DEEP}}}}}',
    "half": '{"prompt": "\\ud800", "id": "\\ud800"}',
    "infinite": '{"messages": [{"role": "user", "content": "x"}], "deadline_s": Infinity}',
    "digits": "9" * 5000,
    "string": '"x"',
    "latin": "\udcff",
}
ENV = {
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "CELERY_BROKER_URL": "",
    "BERLIN_DEBUG": "",
    "BERLIN_URL": "http://127.0.0.1:1",
    "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
    "BERLIN_ACCOUNT": "a",
    "BERLIN_PASSWORD": "b",
}
JSON = [FILES["deep"], FILES["open"]]
WORDS = st.one_of(
    st.sampled_from(
        [
            *("", "-", "--", "0", "-1", "nan", "inf", "1e999", "=", "x", "x" * 5000, "http://["),
            *("a=NaN", "a=1e999", "a=[[[[", f"a={DEEP}", f"a={'[' * 100_000}", f"a={'9' * 5000}"),
            *('a="\\ud800"', "\udcff", "\x1b[2J"),
            *FILES,
        ]
    ),
    # Without a slash: a word may become the name of a file that is written.
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), max_size=8),
)


def commands() -> Iterator[tuple[list[str], click.Command]]:
    """Yield the commands that only read from servers, and start none."""
    for name in sorted({*COMMANDS} - {"demo", "doctor"}):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        yield [name], command
        for sub, found in getattr(command, "commands", {}).items():
            yield [name, sub], found


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    words, command = draw(st.sampled_from(list(commands())))
    for param in command.params:
        if not draw(st.booleans()):
            continue
        if isinstance(param, click.Option):
            words = [*words, draw(st.sampled_from([*param.opts, *param.secondary_opts]))]
        if not getattr(param, "is_flag", False):
            words = [*words, draw(WORDS)]
    if command.name == "gateway":  # without this option it would serve
        words = [*words, "--new-key", draw(WORDS)]
    return words


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in a folder with :data:`FILES`."""
    folder = tmp_path_factory.mktemp("files") / "inner"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with contextlib.chdir(folder):
        yield


@given(command_lines(), st.sampled_from([b"", b"x", b"\xff", *map(str.encode, JSON)]))
@example(["submit", "x", "-o", "a=" + "[" * 100_000], b"")
@example(["submit", "-f", "open"], b"")
@example(["submit", "-f", "deep"], b"")
@example(["batch", "open", "-o", "out"], b"")
@example(["batch", "-", "-o", "-"], b"[" * 100_000)
@example(["gateway", "--new-key", ""], b"")
@example(["gateway", "--new-key", "x" * 129], b"")
def test_any_words_end_with_an_exit_code_and_no_traceback(words: list[str], stdin: bytes) -> None:
    done = CliRunner().invoke(main, words, input=stdin, env=ENV)
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert done.exit_code in {0, 1, 2}
    assert "this is a bug" not in done.output
    assert "Traceback" not in done.output
