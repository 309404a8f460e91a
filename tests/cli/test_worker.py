"""`berlin worker`, before it becomes Celery."""

import pytest
from click.testing import CliRunner

from berlin_worker.cli import main
from berlin_worker.cli.worker import pool_of

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
