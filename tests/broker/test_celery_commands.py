"""Celery's other commands on our app: each works or is one line, and none shows a secret."""

import pytest

from tests.support.celery_cli import run_command
from tests.support.fleet import Fleet, prompt

pytestmark = pytest.mark.integration

WORKING = [
    ["report"],
    ["status"],
    ["list", "bindings"],
    *(["inspect", what] for what in ("active", "reserved", "scheduled", "registered", "stats")),
    *(["inspect", what] for what in ("conf", "ping", "active_queues", "report", "revoked")),
    ["shell"],
    ["graph", "bootsteps"],
    ["amqp", "queue.declare", "another"],
]
REFUSED = [
    ["result", "an-id"],
    ["result", "--traceback", "an-id"],
    ["migrate", "redis://a", "redis://b"],
]


def test_celery_commands_work_with_this_app(fleet: Fleet):
    env = fleet.env | {"BERLIN_PASSWORD": "the-only-secret"}
    with fleet.worker("-c", "2"):
        fleet.running(fleet.send(prompt("[[stall:2]] private words")))
        for command in WORKING:
            code, text = run_command(command, env)
            assert code == 0, f"{command}: {text}"
            for odd in ("Traceback", "the-only-secret", "correct horse", "private words"):
                assert odd not in text, command


def test_refused_commands_end_in_one_line(fleet: Fleet):
    for command in REFUSED:
        code, text = run_command(command, fleet.env)
        assert (code, text.count("\n"), text[:7]) == (1, 1, "Error: "), command


def test_report_shows_no_password_of_broker_or_backend(fleet: Fleet):
    option = "redis://me:hush@127.0.0.1:1/0?password=hush"
    for env in (
        {"CELERY_BROKER_URL": "redis://me:hush@127.0.0.1:1/0"},
        {"CELERY_BROKER_URL": "amqp://me:hush@127.0.0.1:1//"},
        {"CELERY_BROKER_URL": "sentinel://:hush@127.0.0.1:1;sentinel://:hush@127.0.0.1:2"},
        {"CELERY_RESULT_BACKEND": option},
        {"CELERY_BROKER_READ_URL": option},
    ):
        code, text = run_command(["report"], fleet.env | env)
        assert code == 0
        assert "hush" not in text
