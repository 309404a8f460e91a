"""Completion by TAB, suggestions for misspelt words, and help for any terminal."""

from typing import Any

import click
import pytest

from berlin_worker.cli import COMMANDS, main

pytestmark = pytest.mark.unit


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
