"""Contexts around the tasks of the sample app: they hold, fail, hang and crash."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from celery import Celery

from tests.sample_app.app import note, notes

state: dict[str, Any] = {}


@contextlib.asynccontextmanager
async def lifespan(app: Celery) -> AsyncIterator[None]:
    note("lifespan-enter", app.main)
    state["lifespan_task"] = asyncio.current_task()
    try:
        yield
    finally:
        same = state["lifespan_task"] is asyncio.current_task()
        note("lifespan-exit", "same-task" if same else "other-task")


@contextlib.asynccontextmanager
async def failing_lifespan(app: Celery) -> AsyncIterator[None]:
    raise ValueError("no token for you")
    yield


@contextlib.asynccontextmanager
async def hanging_lifespan(app: Celery) -> AsyncIterator[None]:
    note("lifespan-hangs")
    await asyncio.Event().wait()
    yield


@contextlib.asynccontextmanager
async def failing_exit(app: Celery) -> AsyncIterator[None]:
    yield
    raise ValueError("cannot let go")


@contextlib.asynccontextmanager
async def hanging_exit(app: Celery) -> AsyncIterator[None]:
    yield
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def crashing_lifespan(app: Celery) -> AsyncIterator[None]:
    async def crash() -> None:
        await asyncio.to_thread(notes.blpop, ["crash"])
        raise ValueError("the heart stopped")

    async with asyncio.TaskGroup() as group:
        group.create_task(crash())
        yield
