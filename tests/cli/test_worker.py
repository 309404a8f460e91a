"""`berlin worker`, before it becomes Celery."""

import pytest
from click.testing import CliRunner

from berlin_worker.cli import main
from berlin_worker.cli.worker import celery_command, check_providers, pool_of
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("arguments", "pool"),
    [
        (["-P", "gevent"], "gevent"),
        (["-Pgevent", "-E"], "gevent"),
        (["-E", "--pool", "gevent"], "gevent"),
        (["--pool=gevent"], "gevent"),
        (["--pool=prefork"], "prefork"),
        (["-P"], ""),
        (["--pool-start-method", "fork", "-E"], None),
        ([], None),
    ],
)
def test_pool_is_found_among_the_options_of_celery(arguments, pool):
    assert pool_of(arguments) == pool


def test_pool_that_celery_would_import_first_is_refused_in_one_line():
    done = CliRunner().invoke(main, ["worker", "-P", "gevent"])
    assert done.exit_code == 2
    assert done.output.startswith("berlin: --pool 'gevent' cannot stream")
    assert done.output.count("\n") == 1


def test_worker_that_does_not_serve_berlin_needs_no_credentials() -> None:
    check_providers(Settings.from_env({"WORKER_PROVIDERS": "echo"}))
    with pytest.raises(SettingsError):
        check_providers(Settings.from_env({"WORKER_PROVIDERS": "echo, berlin"}))
    check_providers(Settings.from_env({"WORKER_DEFAULT_PROVIDER": "echo"}))
    with pytest.raises(SettingsError):
        check_providers(
            Settings.from_env({"WORKER_PROVIDERS": "berlin", "WORKER_DEFAULT_PROVIDER": "echo"})
        )


def test_celery_gets_its_options_and_a_log_level() -> None:
    assert celery_command(7, ("--without-gossip",))[2:] == [
        *("celery", "-A", "berlin_worker", "worker"),
        *("--concurrency=7", "--loglevel=info", "--without-gossip"),
    ]
    for given in (("-l", "debug"), ("-ldebug",), ("--loglevel=debug",), ("--loglevel", "debug")):
        assert "--loglevel=info" not in celery_command(None, given)
