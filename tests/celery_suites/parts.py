"""The parts of the suites: tests that run in one process, on one Redis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Part:
    """Tests of a suite that run in one process: paths, and those of them that other parts run."""

    suite: str
    name: str
    tests: Sequence[str]
    others: Sequence[str] = ()


_CANVAS: Final = "t/integration/test_canvas.py"
_HALF_OF_CANVAS: Final = [
    f"{_CANVAS}::test_{name}" for name in ("link_error", "chain", "result_set", "group")
]
# These three wait 300 s, for events that must not happen.
_FLAGS_OF_CHORDS: Final = [
    f"{_CANVAS}::test_chord::test_{name}_on_chord_header{suffix}"
    for name, suffix in (
        ("disabling_flag_allow_error_cb", ""),
        ("enabling_flag_allow_error_cb", ""),
        ("flag_allow_error_cb", "_on_upgraded_chord"),
    )
]
_TASKS: Final = "t/integration/test_tasks.py"
_CLASS_BASED: Final = f"{_TASKS}::test_class_based_tasks"
# Left out: tests of other backends, beat, Django and upgrades. They use no pool and no Redis queue.
PARTS: Final = (
    Part("celery", "canvas-1", _HALF_OF_CANVAS),
    Part("celery", "canvas-2", [_CANVAS], [*_HALF_OF_CANVAS, *_FLAGS_OF_CHORDS]),
    Part("celery", "canvas-3", _FLAGS_OF_CHORDS),
    Part("celery", "tasks", [_TASKS], [_CLASS_BASED]),
    # By itself: on `threads` its task stays active, and teardowns of other tests wait for its end.
    Part("celery", "class-based", [_CLASS_BASED]),
    Part(
        "celery",
        "others",
        [
            f"t/integration/test_{name}.py"
            for name in (
                "group_chains", "redis_backend", "connection_recovery", "serialization",
                "request_backend_down", "inspect", "loader", "logfile_format", "worker",
                "backend_leak_in_fixture_teardown", "mem_leak_in_exception_handling",
                "events_state_memory_leak",
            )
        ],
        # Tests of Django, which is not installed.
        [f"t/integration/test_worker.py::test_django_fixup_{name}"
         for name in ("direct_worker", "installs_django_task_for_celery_subclass")],
    ),
    Part("kombu", "redis", ["t/unit/transport/test_redis.py", "t/unit/transport/virtual"]),
)  # fmt: skip
