"""The command line without a server: help, usage, settings, and what an error becomes."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from berlin_schemas import Cancelled, Failed, InvalidJob
from berlin_schemas.errors import ErrorCode, ErrorInfo
from berlin_worker.cli import COMMANDS, main
from berlin_worker.cli.errors import Problem, as_problem
from berlin_worker.errors import CursorExpired, JobFailed, SettingsError, Unavailable

pytestmark = pytest.mark.unit


NOWHERE = "redis://somebody:secret@127.0.0.1:1/0"


def run(*arguments: str, stdin: str | bytes | None = None, **env: str) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, stdout and stderr."""
    environ = {"REDIS_URL": NOWHERE, "CELERY_BROKER_URL": "", "BERLIN_DEBUG": "", **env}
    result = CliRunner().invoke(main, list(arguments), input=stdin, env=environ)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_opens_with_its_line_in_the_list(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert (command.help or "").split("\n\n")[0] == COMMANDS[name][1]


@pytest.mark.parametrize("name", [*sorted({*COMMANDS} - {"dead"}), "dead list", "dead replay"])
def test_every_command_has_an_example(name: str) -> None:
    code, out, _ = run(*name.split(), "--help")
    assert code == 0
    assert f"  berlin {name}" in out


def test_unknown_command_is_wrong_usage() -> None:
    code, out, err = run("tial", "x")
    assert code == 2
    assert "No such command 'tial'" in err
    assert out == ""


def test_version_is_printed() -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("berlin ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit"],
        ["submit", ""],
        ["submit", "x", "--json", "--final"],
        ["submit", "x", "-o", "temperature"],
        ["submit", "x", "--deadline", "0"],
        ["submit", "x", "--job-id", "a b"],
        ["submit", "--file", "/no/such/file"],
        ["tail", "../x"],
        ["tail", "x", "--after", "-1"],
        ["tail", "x", "--after", "3", "--final"],
        ["cancel", "*"],
        ["batch", "/no/such/file", "-o", "out"],
        ["dead", "replay", "+"],
        ["list", "--status", "over"],
        ["list", "--limit", "0"],
        ["submit", "x", "--file", "-"],
        ["submit", "--no-stdin"],
        ["worker", "-c", "0"],
        ["top", "--interval", "0"],
        ["demo", " "],
    ],
)
def test_wrong_usage_ends_with_2_before_anything_is_connected(arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 2, err
    assert "Error: " in err
    assert out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "x"],
        ["submit", "x", "--no-wait"],
        ["tail", "x"],
        ["status", "x"],
        ["cancel", "x"],
        ["worker"],
        ["dead", "list"],
        ["dead", "replay", "1-0"],
        ["list"],
        ["list", "--status", "failed", "--json"],
        ["top"],
        ["top", "--once", "--json"],
        ["demo"],
    ],
)
def test_without_redis_there_is_one_line_and_no_secret(arguments: list[str]) -> None:
    code, out, err = run(*arguments, BERLIN_ACCOUNT="a", BERLIN_PASSWORD="hunter2")
    assert code == 1
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("job ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("berlin: Redis")
    assert "127.0.0.1:1" in lines[0]
    assert "secret" not in err
    assert "hunter2" not in err


@pytest.mark.parametrize("command", [["submit", "x"], ["status", "x"], ["worker"], ["doctor"]])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "foo"),
        ("REDIS_URL", "redis://:hunter2@host:port"),
        ("CELERY_BROKER_URL", "carrier-pigeon://hunter2@host"),
        ("CELERY_BROKER_READ_URL", "redis://:hunter2@elsewhere"),
        ("WORKER_LOG_TTL_S", "soon"),
    ],
)
def test_invalid_setting_is_named_without_its_value(
    command: list[str], variable: str, value: str
) -> None:
    code, _, err = run(*command, **{variable: value})
    assert code == 2
    assert err.startswith(f"berlin: {variable}")
    assert len(err.splitlines()) == 1
    assert "hunter2" not in err


def test_worker_without_credentials_names_the_missing_variables() -> None:
    code, _, err = run("worker", BERLIN_ACCOUNT="", BERLIN_PASSWORD="", WORKER_PROVIDERS="")
    assert code == 2
    assert err.startswith("berlin: set BERLIN_ACCOUNT and BERLIN_PASSWORD")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "exit_code", "expected"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (SettingsError("set REDIS_URL"), 2, "set REDIS_URL"),
        (InvalidJob("messages: is missing"), 2, "messages: is missing"),
        (Unavailable("Redis is away"), 1, "Redis is away; `berlin doctor`"),
        (RedisConnectionError("refused"), 1, "Redis: refused; `berlin doctor`"),
        (ResponseError("WRONGTYPE Operation"), 1, "another program has written to a key"),
        (CursorExpired("its log has expired"), 1, "its log has expired"),
        (FileNotFoundError(2, "No such file", "x"), 1, "No such file"),
        (ZeroDivisionError("division by zero"), 1, "a bug: BERLIN_DEBUG=1"),
        (
            JobFailed(Cancelled(job_id="j", seq=1, attempt=1, ts=0.0, reason="asked")),
            1,
            "cancelled: asked",
        ),
        (
            JobFailed(
                Failed(
                    job_id="j",
                    seq=1,
                    attempt=1,
                    ts=0.0,
                    error=ErrorInfo(code=ErrorCode.BAD_CHUNK, message="m", retryable=False),
                )
            ),
            1,
            "bad_chunk: m",
        ),
    ],
)
def test_every_error_is_one_line_and_an_exit_code(
    error: BaseException, exit_code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_problem(error)
    found.show()
    err = capsys.readouterr().err
    assert found.exit_code == exit_code
    assert expected in err
    assert err.startswith("berlin: ")
    assert len(err.splitlines()) == 1


def test_broken_pipe_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_problem(BrokenPipeError())
    found.show()
    assert found.exit_code == 141
    assert capsys.readouterr().err == ""


def test_error_text_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Problem("the upstream said \x1b[2J\nand more").show()
    assert capsys.readouterr().err == "berlin: the upstream said ␛[2J and more\n"


def test_traceback_is_shown_with_berlin_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERLIN_DEBUG", "1")
    result = CliRunner().invoke(main, ["status", "x"], env={"REDIS_URL": NOWHERE})
    assert isinstance(result.exception, Unavailable)


@pytest.mark.parametrize("stdin", [b"", b"\n", b"\xff\xfe"])
@pytest.mark.parametrize("arguments", [["submit", "-"], ["submit"]])
def test_stdin_without_text_is_wrong_usage(arguments: list[str], stdin: bytes) -> None:
    code, _, err = run(*arguments, stdin=stdin)
    assert code == 2
    assert "Error: " in err


@pytest.mark.parametrize("stdin", [b"\xff", b"a\xff", b"\xff\xfea", b"a\0b"])
def test_binary_stdin_is_one_line(stdin: bytes) -> None:
    code, _, err = run("submit", "Summarise", stdin=stdin)
    assert code == 2
    assert err.startswith("berlin: stdin ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"massages": []}', "massages: no such field"),
    ],
)
def test_invalid_job_file_sends_nothing(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(content)
    code, _, err = run("submit", "--file", str(path))
    assert code == 2
    assert expected in err


def test_doctor_prints_json_and_fails_without_redis() -> None:
    code, out, _ = run("doctor", "--json", "--no-login", CELERY_BROKER_URL="redis://127.0.0.1:2/0")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [(result["name"], result["level"]) for result in found] == [
        ("redis", "fail"),
        ("broker", "fail"),
    ]
    assert all(result["hint"] for result in found)
    assert "secret" not in out
