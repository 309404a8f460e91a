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
URL = "redis://me:hush@127.0.0.1:1/0"
OTHER_BROKERS = [
    {"CELERY_BROKER_URL": f"{URL[:-1]}1", "CELERY_BROKER_WRITE_URL": URL},
    {"CELERY_BROKER_URL": URL, "CELERY_BROKER": f"{URL[:-1]}1"},
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


def test_variables_that_lead_to_another_broker_are_refused_in_one_line(fleet: Fleet):
    for env in OTHER_BROKERS:
        # In a new process each: the app has read its settings before the commands are forked.
        code, text = run_command(["report"], fleet.env | env)
        assert (code, text.count("\n"), text[:8]) == (1, 1, "berlin: "), env
        assert list(env)[-1] in text
        assert "hush" not in text


def test_variables_of_other_apps_configure_nothing(fleet: Fleet):
    env = {
        "CELERY_CONFIG_MODULE": "no.such.module",
        "CELERY_LOADER": "no.such.loader",
        "CELERY_RESULT_BACKEND": "nothing://",
    }
    code, text = run_command(["list", "bindings"], fleet.env | env)
    assert code == 0, text
    assert "Traceback" not in text


def test_report_shows_no_password_of_broker_or_backend(fleet: Fleet):
    option = "redis://me:hush@127.0.0.1:1/0?password=hush"
    for env in (
        {"CELERY_BROKER_URL": "redis://me:hush@127.0.0.1:1/0"},
        {"CELERY_BROKER_URL": "amqp://me:hush@127.0.0.1:1//"},
        {"CELERY_BROKER_URL": "sentinel://:hush@127.0.0.1:1;sentinel://:hush@127.0.0.1:2"},
        {"CELERY_RESULT_BACKEND": option},
        {"CELERY_BROKER_URL": URL, "CELERY_BROKER_READ_URL": URL},
    ):
        code, text = run_command(["report"], fleet.env | env)
        assert code == 0
        assert "hush" not in text
