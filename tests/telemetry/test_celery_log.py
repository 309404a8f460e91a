"""The log of a Celery process: its lines and where they are written."""

import subprocess
import sys

import pytest

from tests.support.workers import ROOT

pytestmark = pytest.mark.integration

LOG = """
import logging, sys
from berlin_worker.celery import app
app.log.setup(logging.INFO, redirect_stdouts=True)
seen = []
logging.getLogger().handlers[0].addFilter(lambda record: seen.append(record) or True)
def show(value):
    print(value, file=sys.__stdout__, flush=True)  # Python does not flush it, once it is replaced
show("set up")
input()
"""
"""A log as a worker's: what is printed to stderr goes there too. It counts its lines."""

AS_A_NUMBER = """
import grp, os
def nameless(number):
    raise KeyError(number)
grp.getgrgid = nameless
os.getuid = os.geteuid = lambda: {uid}
from berlin_worker.celery import app
app.Worker()
"""
"""The steps of a worker before it connects, as a user whose group has no name."""


def python(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_undelivered_line_causes_no_further_lines():
    said = "print('by print'); logging.error('by logging'); show(len(seen))"
    with python(LOG + said) as process:
        assert process.stderr
        assert process.stdout
        assert process.stdout.readline() == "set up\n"
        process.stderr.close()
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.read() == "2\n"


def test_line_that_cannot_be_formatted_is_reported_on_stderr_with_its_place():
    with python(LOG + "logging.error('%d', 'no number')\nlogging.error('next')") as process:
        log = process.communicate("\n")[1]
    assert "A line could not be logged, of <string>:11" in log
    assert "TypeError" in log
    assert '"event": "next"' in log
    assert log.count("Traceback") == 1


@pytest.mark.parametrize(("uid", "warned"), [(10001, False), (0, True)])
def test_only_root_is_warned_about_running_as_root(uid, warned):
    with python(AS_A_NUMBER.format(uid=uid)) as process:
        log = process.communicate()[1]
    assert process.returncode == 0, log
    assert ("superuser" in log) == warned, log
