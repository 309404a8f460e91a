"""Writes the events of a job as a worker does: log and channel in one step, with a record."""

from typing import Any

import redis.asyncio

from berlin_schemas import (
    Cancelled,
    Chunk,
    Completed,
    ErrorCode,
    ErrorInfo,
    Event,
    Failed,
    Reset,
    Started,
    Timings,
    encode,
    names,
)

TTL_S = 3600
TIMINGS = Timings(queue_ms=1, login_ms=0, first_chunk_ms=2, stream_ms=3, total_ms=6)


class JobWriter:
    """The events of one job; ``seq`` counts by itself."""

    def __init__(self, client: redis.asyncio.Redis, job_id: str) -> None:
        self.client = client
        self.job_id = job_id
        self.seq = 0

    async def queued(self) -> None:
        """Write the record that a submission leaves."""
        key = names.state_key(self.job_id)
        await self.client.hset(key, mapping={"status": "queued", "created_ms": 1_000})
        await self.client.expire(key, TTL_S)

    async def started(self) -> None:
        await self.append(Started(**self._base()))

    async def chunk(self, content: str, *, publish: bool = True) -> None:
        """Append a chunk; with ``publish=False`` its message is lost."""
        await self.append(Chunk(**self._base(), content=content), publish=publish)

    async def reset(self) -> None:
        await self.append(Reset(**self._base(), reason="upstream_error"))

    async def completed(self, *, publish: bool = True, usage: dict[str, Any] | None = None) -> None:
        event = Completed(**self._base(), finish_reason="stop", timings=TIMINGS, usage=usage)
        await self.append(event, publish=publish, status="completed")

    async def failed(self) -> None:
        error = ErrorInfo(code=ErrorCode.AUTH_FAILED, message="no", retryable=False)
        await self.append(Failed(**self._base(), error=error), status="failed")

    async def cancelled(self) -> None:
        await self.append(Cancelled(**self._base(), reason="requested"), status="cancelled")

    async def whole(self, *contents: str) -> None:
        """Write a job from its start to its end."""
        await self.started()
        for content in contents:
            await self.chunk(content)
        await self.completed()

    async def long_log(self, chunks: int) -> None:
        """Write ``started`` and many chunks at once, without publishing them."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for seq in range(1, chunks + 2):
                base = {**self._base(), "seq": seq}
                event = Started(**base) if seq == 1 else Chunk(**base, content=f"<{seq}>")
                pipeline.xadd(names.log_key(self.job_id), {"event": encode(event)}, id=f"{seq}-0")
            await pipeline.execute()
        self.seq = chunks + 1

    async def append(self, event: Event, *, publish: bool = True, status: str = "running") -> None:
        await self.append_raw(encode(event), publish=publish, status=status)

    async def append_raw(
        self, data: bytes, *, publish: bool = True, status: str = "running"
    ) -> None:
        self.seq += 1
        log, state = names.log_key(self.job_id), names.state_key(self.job_id)
        async with self.client.pipeline(transaction=True) as step:
            step.xadd(log, {"event": data}, id=f"{self.seq}-0")
            step.expire(log, TTL_S)
            step.hset(state, mapping={"status": status, "seq": self.seq, "attempt": 1})
            step.expire(state, TTL_S)
            if publish:
                step.publish(names.channel(self.job_id), data)
            await step.execute()

    def _base(self) -> dict[str, Any]:
        return {"job_id": self.job_id, "seq": self.seq + 1, "attempt": 1, "ts": 1.0}
