"""An asyncio pool for Celery: ``worker_pool = "berlin_worker.pool:AsyncioPool"``.

One event loop in one thread runs all tasks of the worker. Celery's own tracer runs each
of them, unmodified, in a greenlet on that thread; if the body of the task is a
coroutine, the greenlet hands it to the loop and sleeps until it has ended. So signals,
retries, results and time limits are Celery's. A task in flight costs no process, but a few
dozen kilobytes.

    app = Celery("proj", task_cls=AsyncioTask)
    app.conf.worker_pool = "berlin_worker.pool:AsyncioPool"

    @app.task(bind=True, acks_late=True)
    async def fetch(self, url): ...

``celery -A proj worker -c 1000`` then keeps up to 1,000 tasks in flight. What a user must know:

- A plain ``def`` task runs on the loop's thread and must not block. So does Celery's own work
  around a task: a result backend costs the loop one round trip for each result.
- ``self.request``, ``self.retry`` and ``current_task`` work in the coroutine and its children.
- ``SoftTimeLimitExceeded`` is raised in the coroutine. The hard limit, ``revoke
  --terminate``, a shutdown and a lost connection cancel it; :func:`cancel_cause` returns which.
- Without a pool, ``await fetch(url)`` calls the function, and eager mode or another pool runs
  it in a loop of its own.

- SIGTERM drains, however often it is sent; a second SIGINT, or SIGQUIT, cuts the drain short.
  SIGHUP drains and runs the command line of the process again.

Settings, all optional:

``worker_pool_lifespan``
    ``"module:function"`` or a callable that takes the app and returns an async context manager.
    Entered in the loop before the first task, left after the last.
``worker_pool_drain_timeout``
    At shutdown, the seconds that running tasks may go on. ``None``, the default: no limit.
    Then they are cancelled, and the messages of ``acks_late`` tasks go back to the queue.
    If it is set, ``REMAP_SIGTERM=SIGQUIT`` makes no difference: SIGTERM is bounded already.
``worker_pool_cleanup_timeout``
    The seconds a cancelled task, and the lifespan, may take to clean up at shutdown. Default 10.

This package imports no other package of this project.
"""

from berlin_worker.pool.context import CancelCause, Requeued, cancel_cause
from berlin_worker.pool.pool import AsyncioPool
from berlin_worker.pool.task import AsyncioRequest, AsyncioTask, error_of

__all__ = [
    "AsyncioPool",
    "AsyncioRequest",
    "AsyncioTask",
    "CancelCause",
    "Requeued",
    "cancel_cause",
    "error_of",
]
