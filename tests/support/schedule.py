"""The order of the tests of a parallel run: the longest begin first.

With ``--dist worksteal`` each process begins with one part of the collected tests. When it has
finished its part, it takes half of the tests that another process has left. A long test that begins
last would run alone.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

LONGEST: Final = (
    "tests/worker/test_restart.py",
    "tests/broker/rabbitmq/test_rabbitmq.py",
    "tests/broker/test_scheduled.py",
    "tests/cli/test_demo.py",
    "tests/broker/test_celery_state.py",
    "tests/storage/test_topologies.py",
    "tests/worker/test_abandon.py",
    "tests/broker/test_visibility_worker.py",
    "tests/deploy/test_readme.py",
    "tests/examples/test_examples.py",
    "tests/celery_suites/test_runs.py",
    "tests/pool/test_lifespan.py",
    "tests/deploy/test_scaling.py",
    "tests/broker/test_celery_commands.py",
    "tests/broker/test_worker_options_process.py",
    "tests/telemetry/test_http_endpoint.py",
    "tests/client/test_surface_process.py",
    "tests/deploy/test_image.py",
    "tests/deploy/test_compose.py",
    "tests/benchmarks/test_smoke.py",
    "tests/broker/test_sentinel.py",
)
"""Files with a test of ten seconds or more on a busy machine, the longest first."""


def groups(tests: Sequence[T], path_of: Callable[[T], str]) -> list[list[T]]:
    """Return the tests that begin first, the longest first; those of one file stay together.

    ``path_of`` returns the path of a test's file from the root.
    """
    by_file = ([test for test in tests if path_of(test) == path] for path in LONGEST)
    return [*filter(None, by_file)]


def spread(tests: Sequence[T], first: Sequence[Sequence[T]], processes: int) -> list[T]:
    """Return ``tests`` in an order in which the groups of ``first`` begin at once.

    The groups, each of which stays together, are dealt to the parts with which the processes
    begin. All others keep their order.
    """
    dealt = [[test for group in first[n::processes] for test in group] for n in range(processes)]
    taken = {test for group in first for test in group}
    rest = [test for test in tests if test not in taken]
    order: list[T] = []
    for n, part in enumerate(dealt):
        # The sizes of the parts are those of xdist.
        size = (len(tests) - len(order)) // (processes - n)
        more = max(0, size - len(part))
        order += [*part, *rest[:more]]
        del rest[:more]
    return order + rest
