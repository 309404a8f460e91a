"""Imports of help and completion: click alone, for every command."""

import json
import subprocess
import sys

import pytest

from berlin_worker.cli import COMMANDS

pytestmark = pytest.mark.integration

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
