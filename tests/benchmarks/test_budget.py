"""The budget of a chunk: what a sample of the profiler counts as."""

import pytest

from tests.benchmarks import budget
from tests.benchmarks.fleet import ROOT
from tests.benchmarks.marks import between

pytestmark = pytest.mark.unit

LOOP = "thread (7): asyncio-pool;LoopThread._run (worker/pool/thread.py:99)"
READ = f"{LOOP};Attempt._read (worker/attempt.py:196);Account.stream (worker/providers/x.py:1)"


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (LOOP, "event loop"),
        (READ, "read"),
        (f"{READ};ReplyDecoder.feed (worker/providers/lines.py:1)", "parse"),
        (
            f"{LOOP};Journal.run (worker/journal.py:1);writelines (asyncio/streams.py:2)",
            "append",
        ),
        ("thread (8): MainThread;main (celery/__main__.py:1);loads (json/__init__.py:2)", "parse"),
        ("thread (9): other;wait (threading.py:1)", "rest"),
    ],
)
def test_sample_counts_for_the_innermost_frame_that_belongs_anywhere(stack, part):
    assert budget.part_of(stack).name == part


def test_thread_that_waits_has_no_share():
    waiting = "thread (8): MainThread;main (celery/__main__.py:1);_epoll.poll (kombu/eventio.py:1)"
    assert budget.shares([f"{LOOP} 3", f"{READ} 1", f"{waiting} 96"]) == {
        "event loop": 0.75,
        "read": 0.25,
    }


def test_parts_add_up_to_the_cpu_of_the_worker_and_the_dearest_comes_first():
    ours = {
        "shares": {"read": 0.25, "append": 0.75},
        "cpu_us_a_chunk": 40.0,
        "redis_us_a_chunk": 20.0,
    }
    floor = {"shares": {"read": 1.0}, "cpu_us_a_chunk": 30.0, "redis_us_a_chunk": 10.0}
    rows = [row.split(" | ")[:3] for row in budget.table(ours, floor).splitlines()[2:]]
    assert rows == [
        ["| append", "30.0", "—"],
        ["| read", "10.0", "30.0"],
        ["| **worker**", "40.0", "30.0"],
        ["| Redis", "20.0", "10.0"],
    ]


def test_readme_has_a_place_for_the_budget():
    readme = (ROOT / "tests/README.md").read_text()
    assert "| row |" in between(readme, "budget", "| row |")
