"""`berlin submit` as a process: prompts, text, JSON, encodings, terminals and pipes."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from berlin_worker.cli.output import encoded
from tests.support.cli import Stack, end
from tests.support.workers import TIMEOUT_S

pytestmark = pytest.mark.integration


def test_submit_writes_the_text_and_nothing_else(stack: Stack, job_id: str) -> None:
    assert stack.run("submit", "Hello", "--job-id", job_id) == (
        0,
        "one two three \n",
        f"job {job_id}\n",
    )


def test_json_is_the_log_byte_for_byte(stack: Stack, job_id: str) -> None:
    code, out, _ = stack.run("submit", "Hello", "--job-id", job_id, "--json")
    assert code == 0
    assert out.encode() == b"".join(event + b"\n" for event in stack.events(job_id))


def test_prompt_is_read_from_stdin_and_options_reach_the_upstream(stack: Stack) -> None:
    text = f"prompt {uuid.uuid4().hex}"
    options = ["--system", "Be brief.", "-o", "max_tokens=7", "--model", "gpt-4"]
    code, _, _ = stack.run("submit", "-", *options, stdin=f"{text}\n".encode())
    assert code == 0
    [body] = [c.body for c in stack.upstream.calls if c.body and text in c.body.get("prompt", "")]
    assert body["prompt"] == f"System: Be brief.\nUser: {text}\nAssistant:"
    assert body["options"]["max_tokens"] == 7
    assert body["options"]["model"] == "gpt-4"


def test_stdin_joins_the_prompt_after_a_blank_line(stack: Stack, tmp_path: Path) -> None:
    text = f"text {uuid.uuid4().hex}"
    for arguments, stdin in (
        (["Summarise"], f"\ufeff{text}\n".encode()),
        (["Summarise"], text.encode("utf-16")),
        ([], f"Summarise\n\n{text}\n".encode()),
    ):
        assert stack.run("submit", *arguments, stdin=stdin)[0] == 0
        assert stack.upstream.prompts[-1] == f"Summarise\n\n{text}"
    code, out, err = stack.run("submit", "Summarise", stdin=b"\xff")
    assert (code, out) == (2, "")
    assert err == "berlin: stdin is not UTF-8 text (byte 1)\n"


def test_silent_stdin_does_not_hang(stack: Stack) -> None:
    text = f"prompt {uuid.uuid4().hex}"
    process = stack.start("submit", text, stdin=subprocess.PIPE)
    assert process.wait(TIMEOUT_S) == 0
    assert "the prompt goes alone" in end(process)[2]
    assert stack.upstream.prompts[-1] == text
    process = stack.start("submit", text, "--no-stdin", stdin=subprocess.PIPE)
    assert process.wait(TIMEOUT_S) == 0
    code, _, err = end(process)
    assert (code, len(err.splitlines())) == (0, 1)


ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "utf-8": {"LC_ALL": "C"},
    "ascii ": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


NEXT = "--next"
SEVERAL = """
import sys
from berlin_worker.cli import main
program, *words = sys.argv
while words:
    end = words.index("--next")
    sys.argv, words = [program, *words[:end]], words[end + 1 :]
    try:
        main(prog_name="berlin")
        code = 0
    except SystemExit as left:
        code = left.code or 0
    for stream, mark in ((sys.stdout, b"\\0"), (sys.stderr, b"\\0%d\\0" % code)):
        stream.flush()
        stream.buffer.write(mark)
"""
"""Runs commands, each followed by ``NEXT``, in one interpreter. Python reads the encoding at its
start, so each encoding needs an interpreter of its own, which starts slowly."""


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_fits_the_encoding_of_the_output(stack: Stack, job_id: str, encoding: str) -> None:
    env = {"PYTHONIOENCODING": "", **ENCODINGS[encoding]}
    shown = encoded("“ü” → 😀 │", encoding.strip()).decode(encoding.strip())
    commands: list[list[str]] = [
        ["submit", "“ü” → 😀 │", "--provider", "echo", "--job-id", job_id, "--tenant", "ü😀"],
        ["tail", job_id, "--final"],
        ["status", job_id],
        ["list", "-n", "3"],
        ["top", "--once"],
        ["dead", "list"],
        ["submit", "--file", "ü"],
        ["statüs"],
    ]
    words = [word for command in commands for word in (*command, NEXT)]
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, *words],
        env={**stack.env, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    *outputs, _ = done.stdout.decode(encoding.strip()).split("\0")
    *errors, _ = done.stderr.decode(encoding.strip()).split("\0")
    assert len(outputs) == len(commands)
    assert outputs[:2] == [f"{shown}\n"] * 2
    assert errors[1::2] == ["0"] * 6 + ["2"] * 2, errors
    assert "Did you mean 'status'?" in errors[-2]


def test_colours_follow_the_environment_variables(stack: Stack, job_id: str) -> None:
    stack.run("submit", "Hello", "--job-id", job_id)
    for env, colours in (
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({}, False),
    ):
        out = stack.run("status", job_id, env=env)[1]
        assert ("\x1b[" in out) is colours


@pytest.mark.parametrize(
    "command", [["list", "--json"], ["--help"], ["status", "ID"], ["top", "--once"]]
)
def test_closed_pipe_causes_no_traceback(stack: Stack, job_id: str, command: list[str]) -> None:
    stack.run("submit", "Hello", "--job-id", job_id)
    ours, theirs = os.pipe()
    os.close(ours)
    process = stack.start(*(job_id if word == "ID" else word for word in command), stdout=theirs)
    os.close(theirs)
    code, _, err = end(process)
    assert (code, err) == (141, "")


def test_no_wait_prints_only_the_id_for_tail(stack: Stack) -> None:
    code, out, err = stack.run("submit", "Hello", "--no-wait")
    assert (code, err) == (0, "")
    job_id = out.removesuffix("\n")
    assert stack.run("tail", job_id) == (0, "one two three \n", "")
    after = json.loads(stack.run("tail", job_id, "--after", "2", "--json")[1].splitlines()[0])
    assert (after["seq"], after["content"]) == (3, "two ")


def test_submitting_twice_pays_once(stack: Stack, job_id: str) -> None:
    text = f"once {job_id}"
    assert stack.run("submit", text, "--job-id", job_id)[1] == "one two three \n"
    code, out, err = stack.run("submit", text, "--job-id", job_id)
    assert (code, out) == (0, "one two three \n")
    assert "was submitted before, and is completed" in err
    assert stack.calls(text) == 1


def test_failed_job_ends_with_1_and_its_error(stack: Stack, job_id: str) -> None:
    code, out, err = stack.run("submit", "[[status:400]]", "--job-id", job_id)
    assert (code, out) == (1, "")
    assert "berlin: the job has failed: upstream_error: " in err
    assert "Traceback" not in err


def test_after_a_reset_the_text_begins_anew(stack: Stack, job_id: str) -> None:
    prompt = f"{job_id} [[cut:1*1]]"
    code, out, err = stack.run("submit", prompt, "--job-id", job_id)
    assert (code, out) == (0, "one \none two three \n")
    assert "restarted (upstream_error): earlier text is void" in err
    assert stack.run("tail", job_id, "--final")[1] == "one two three \n"


HOSTILE = "a \x1b[2Jb\x07\r\n[bold]c[/bold]"


def test_pipe_receives_the_text_unchanged_with_a_last_newline(stack: Stack, tmp_path: Path) -> None:
    options = ["--provider", "echo"]
    assert stack.run("submit", HOSTILE, *options)[:2] == (0, HOSTILE + "\n")
    # A file is not a pipe: the event loop cannot wait for it.
    with (tmp_path / "out").open("wb") as out:
        assert end(stack.start("submit", HOSTILE, *options, stdout=out))[0] == 0
    assert (tmp_path / "out").read_bytes() == HOSTILE.encode() + b"\n"


def test_terminal_gets_no_control_characters(stack: Stack) -> None:
    controller, terminal = pty.openpty()
    process = stack.start("submit", HOSTILE, "--provider", "echo", stdout=terminal)
    os.close(terminal)
    assert end(process)[0] == 0
    found = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(controller, 4096):
            found += data
    os.close(controller)
    assert found.decode() == "a ␛[2Jb␇\r\n[bold]c[/bold]\r\n"
