"""The limit of open files of a process, and the slots that it allows."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

CODE = """
import resource, sys
soft, hard, wanted, proxies = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from berlin_worker.pool.file_limit import FileLimit
limit = FileLimit(stores=2, proxies=proxies)
allowed = limit.make_room(wanted)
print(allowed, *resource.getrlimit(resource.RLIMIT_NOFILE))
print(limit.warning(wanted, allowed))
"""


@pytest.mark.parametrize(("proxies", "slots"), [(0, 218), (1, 114)])
def test_limit_of_a_process_is_raised_and_slots_follow(proxies, slots):
    numbers = map(str, (256, 400, 1000, proxies))
    done = subprocess.run(
        [sys.executable, "-c", CODE, *numbers], capture_output=True, text=True, check=True
    )
    first, warning = done.stdout.splitlines()
    assert first.split() == [str(slots), "400", "400"]
    assert warning.startswith(f"{slots} streams at once in place of 1000: the limit is 400")
