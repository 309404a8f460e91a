"""Celery's commands ``revoke`` and ``terminate``: a revoked job stays revoked after a restart.

Celery keeps revoked IDs only in the memory of the workers that run at that moment. These commands
also write the cancel flag into the record of each job.
"""

from collections.abc import Callable
from typing import Any

from celery.utils.functional import maybe_list
from celery.worker.control import Panel, control_command

from berlin_schemas.names import is_job_id

Revoke = Callable[[list[str], bool], None]
"""Receives job IDs, and whether running jobs are to be cancelled, too."""


def job_ids(asked: object) -> list[str]:
    """Return the valid job IDs in the argument of a command, in order and without repetitions."""
    try:
        found = list(maybe_list(asked) or [])
    except TypeError:
        return []
    return list(dict.fromkeys(each for each in found if is_job_id(each)))


def install(revoke_jobs: Revoke) -> None:
    """Let the two commands of a worker call ``revoke_jobs`` before Celery's own code."""
    celery_revoke = Panel.data["revoke"]

    @control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")  # type: ignore[untyped-decorator]  # celery has no types
    def revoke(
        state: Any, task_id: Any, terminate: Any = False, signal: Any = None, **kwargs: Any
    ) -> Any:
        """Revoke task by task id (or list of ids)."""
        ids = job_ids(task_id)
        revoke_jobs(ids, bool(terminate))
        # The table of arguments accepts names in lower case, too, and Celery raises for these.
        name = signal.upper() if isinstance(signal, str) else signal
        return celery_revoke(state, ids, terminate=terminate, signal=name, **kwargs)

    @control_command(  # type: ignore[untyped-decorator]  # celery has no types
        variadic="task_id",
        args=[("signal", str)],
        signature="<signal> [id1 [id2 [... [idN]]]]",
    )
    def terminate(state: Any, signal: Any, task_id: Any, **_: Any) -> Any:
        """Terminate task by task id (or list of ids)."""
        return revoke(state, task_id, terminate=True, signal=signal)
