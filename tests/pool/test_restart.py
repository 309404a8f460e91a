"""SIGHUP: which command line starts a program again."""

import pytest

from berlin_worker.pool.restart import command_line

pytestmark = pytest.mark.unit

PYTHON = "/venv/bin/python"
WORKER = ["-A", "berlin_worker", "worker", "-c", "4"]


@pytest.mark.parametrize(
    ("original", "argument_count", "script", "expected"),
    [
        # The hard case: the name of a module cannot be run as the path of its file.
        ([PYTHON, "-m", "celery", *WORKER], 6, None, ["-m", "celery", *WORKER]),
        ([PYTHON, "bin/celery", *WORKER], 6, "/venv/bin/celery", ["/venv/bin/celery", *WORKER]),
        ([PYTHON, "-X", "dev", "-W", "error", "-m", "celery", *WORKER], 6, None,
         ["-X", "dev", "-W", "error", "-m", "celery", *WORKER]),
        ([PYTHON, "-c", "start()", *WORKER], 6, None, ["-c", "start()", *WORKER]),
        ([PYTHON, "start.py"], 1, "/srv/start.py", ["/srv/start.py"]),
    ],
)  # fmt: skip
def test_command_line_is_the_original_one(original, argument_count, script, expected):
    assert command_line(original, argument_count, script, is_root=True) == expected


@pytest.mark.parametrize(
    "options",
    [["--uid", "1000", "--gid", "1000"], ["--uid=berlin"], ["--gid", "berlin", "--uid=1000"], []],
)
@pytest.mark.parametrize("is_root", [True, False])
def test_user_and_group_are_kept_only_if_they_can_be_set_again(options, is_root):
    original = [PYTHON, "-m", "celery", "worker", *options, "-c", "4"]
    again = command_line(original, len(original) - 2, None, is_root=is_root)
    kept = options if is_root else []
    assert again == ["-m", "celery", "worker", *kept, "-c", "4"]
