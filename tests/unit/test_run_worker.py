"""`berlin worker`, before it becomes Celery."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
soft, hard, most = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from berlin_worker.cli.run_worker import raise_file_limit
raise_file_limit(most)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "most", "then"),
    [(256, 900, 500, 500), (256, 400, 500, 400), (800, 900, 500, 800)],
)
def test_it_may_open_as_many_files_as_the_system_lets_it(soft, hard, most, then):
    command = [sys.executable, "-c", CODE, str(soft), str(hard), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(then), str(hard)]
