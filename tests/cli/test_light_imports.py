"""Imports of help and completion: click alone, for every command."""

import json
import subprocess
import sys
from typing import Any

import click
import pytest

from berlin_worker.cli import COMMANDS, main

pytestmark = pytest.mark.unit

HEAVY = ["aiohttp", "asyncio", "berlin_schemas", "celery", "kombu", "pydantic", "redis", "rich"]

PROBE = """
import json, os, sys
from berlin_worker.cli import main

def probe(words, environ):
    os.environ.update(environ)
    try:
        main(words, prog_name="berlin")
    except SystemExit as end:
        code = end.code
    for name in environ:
        del os.environ[name]
    heavy = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
    print("PROBE", json.dumps([words, environ, code, heavy]))

for words, environ in json.loads(sys.argv[2]):
    probe(words, environ)
"""


def probe(runs: list[tuple[list[str], dict[str, str]]]) -> tuple[str, dict[str, list[str]]]:
    """Make the runs in one process; return all output, and the heavy modules that each loaded."""
    arguments = [sys.executable, "-c", PROBE, json.dumps(HEAVY), json.dumps(runs)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("PROBE "):
            words, environ, code, heavy = json.loads(line.removeprefix("PROBE "))
            assert code == 0, (words, done.stderr)
            found[" ".join([*words, environ.get("COMP_WORDS", "")])] = heavy
    return done.stdout, found


def test_help_of_any_command_loads_nothing_heavy() -> None:
    runs: list[tuple[list[str], dict[str, str]]] = [(["--help"], {}), (["--version"], {})]
    runs += [([name, "--help"], {}) for name in COMMANDS]
    runs += [(["dead", name, "--help"], {}) for name in ("list", "replay")]
    out, found = probe(runs)
    assert len(found) == len(runs)
    assert {name: heavy for name, heavy in found.items() if heavy} == {}
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        "berlin ",
        "berlin su",
        "berlin submit --",
        "berlin submit --model ",
        "berlin submit --provider ",
        "berlin batch ",
        "berlin dead ",
        "berlin dead replay ",
        "berlin tail ",
        "berlin status --json ",
    ],
)
def test_completion_loads_nothing_heavy(words: str) -> None:
    before = words.split(" ")
    environ = {
        "_BERLIN_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(before) - 1),
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    _, found = probe([([], environ)])
    assert list(found.values()) == [[]]


def items(*words: str) -> list[Any]:
    from click.shell_completion import ShellComplete

    shell = ShellComplete(main, {}, "berlin", "_BERLIN_COMPLETE")
    *before, incomplete = words
    return shell.get_completions(list(before), incomplete)


def completed(*words: str) -> list[str]:
    return [item.value for item in items(*words)]


def kinds(*words: str) -> list[str]:
    return [item.type for item in items(*words)]


def test_completion_offers_commands_options_and_values() -> None:
    assert completed("") == list(COMMANDS)
    assert completed("st") == ["status"]
    assert "--retry-failed" in completed("batch", "--")
    assert completed("submit", "--provider", "") == ["berlin", "echo", "openai"]
    assert completed("completion", "") == ["bash", "zsh", "fish"]
    assert completed("dead", "") == ["list", "replay"]
    assert (
        kinds("batch", "") == kinds("batch", "x", "-o", "") == kinds("submit", "-f", "") == ["file"]
    )


def test_models_are_completed_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_METRICS_MODELS", "gpt-4, small")
    monkeypatch.setenv("WORKER_DEFAULT_MODEL", "mine")
    assert completed("submit", "--model", "") == ["mine", "gpt-4", "small", "gpt-3.5-turbo"]
    assert completed("batch", "x", "--model", "gpt") == ["gpt-4", "gpt-3.5-turbo"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", shell], prog_name="berlin")
    script = capsys.readouterr().out
    assert f"_BERLIN_COMPLETE={shell}_complete" in script
    assert "berlin" in script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sumbit", "x"], "No such command 'sumbit'. Did you mean 'submit'?"),
        (["STATUS", "x"], "No such command 'STATUS'. Did you mean 'status'?"),
        (["comp"], "Did you mean 'completion'?"),
        (["dead", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["zzzzzz"], "No such command 'zzzzzz'.\n"),
        (["submit", "--modle", "x", "y"], "--model"),
    ],
)
def test_misspelt_word_leads_to_a_suggestion(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words, prog_name="berlin")
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


def test_help_is_ascii() -> None:
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        commands = [command, *getattr(command, "commands", {}).values()]
        for each in commands:
            assert each.get_help(click.Context(each)).isascii(), name
