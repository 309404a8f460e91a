"""Run many commands of ``celery -A berlin_worker`` for the price of one import."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.support.workers import ROOT

_RUN_ALL = """
import json, os, sys
from celery.bin.celery import celery
import berlin_worker.celery

for options, env in json.loads(sys.argv[1]):
    read, write = os.pipe()
    if os.fork() == 0:
        os.environ.update(env)
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        celery(["-A", "berlin_worker", *options], prog_name="celery", auto_envvar_prefix="CELERY")
        os._exit(99)
    os.close(write)
    with open(read, errors="replace") as output:
        text = output.read()
    _, status = os.wait()
    print(json.dumps([os.waitstatus_to_exitcode(status), text]), flush=True)
"""


def run_commands(
    commands: Sequence[tuple[Sequence[str], Mapping[str, str]]], env: Mapping[str, str]
) -> list[tuple[int, str]]:
    """Run each command in a fork, with its further variables: exit code and all output."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _RUN_ALL, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    return [(code, text) for code, text in map(json.loads, done.stdout.splitlines())]


def run_celery(options: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Run one command in a process that loads the app by itself: exit code and all output."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "celery", "-A", "berlin_worker", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=180,
    )
    return done.returncode, done.stdout
