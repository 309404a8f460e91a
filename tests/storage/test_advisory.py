"""Writes that no caller has to wait for."""

import asyncio

import pytest
from redis.exceptions import ClusterDownError, NoPermissionError

from berlin_worker.storage import advisory
from berlin_worker.storage.advisory import AdvisoryWriter

pytestmark = pytest.mark.unit


class Nodes:
    """Nodes by the first letter of a write; one whose gate is closed does not answer."""

    def __init__(self):
        self.gates = {name: asyncio.Event() for name in "ab"}
        self.gates["b"].set()
        self.sent = []
        self.reply = None

    async def run(self, writes):
        self.sent += writes
        await self.gates[writes[0][0]].wait()
        return [1 if self.reply is None else self.reply for _ in writes]


@pytest.fixture
def nodes(monkeypatch):
    monkeypatch.setattr(advisory, "PATIENCE_S", 0.01)
    return Nodes()


async def test_silent_node_is_not_asked_again_until_it_answers(nodes):
    writer = AdvisoryWriter(nodes.run, lambda write: write[0])
    assert await writer.write(["a1", "b1"]) == ["a1"]
    assert await writer.write(["a2", "b2"]) == ["a2"]
    assert nodes.sent == ["a1", "b1", "b2"]
    nodes.gates["a"].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await writer.write(["a3"]) == []
    await writer.aclose()


async def test_write_that_a_node_refuses_for_good_is_an_error_and_another_is_left(nodes):
    writer = AdvisoryWriter(nodes.run, lambda write: write[0])
    nodes.reply = ClusterDownError("down")
    assert await writer.write(["b1"]) == ["b1"]
    nodes.reply = NoPermissionError("no")
    with pytest.raises(NoPermissionError):
        await writer.write(["b2"])


async def test_close_cancels_what_is_under_way(nodes):
    writer = AdvisoryWriter(nodes.run, lambda write: write[0])
    assert await writer.write(["a1"]) == ["a1"]
    await writer.aclose()
    nodes.gates["a"].set()
    assert await writer.write(["a2"]) == []
