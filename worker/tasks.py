"""The task: take what Celery knows of the delivery, and hand it to the runner."""

from typing import Any

from celery.signals import task_revoked
from celery.worker.request import Context

from schemas import names
from worker import service
from worker.celery import app
from worker.pool import AsyncioTask


@app.task(name=names.TASK, bind=True)
async def generate(self: AsyncioTask, *args: Any, **kwargs: Any) -> None:
    """Run one prompt job (contract, "Names"): one positional argument, the job object."""
    await service.runner().run(self.request.id, args, kwargs)


@task_revoked.connect(sender=generate, weak=False)
def revoked(request: Context, *, expired: bool, **_: Any) -> None:
    """A job that Celery drops before it has begun ends as ``cancelled`` all the same."""
    service.cancel(request.id, "expired" if expired else "revoked")
