"""The calls of ``append.lua`` (pure)."""

from collections.abc import Sequence
from typing import Any, Final

from berlin_worker.jobs.job_log import Batch
from berlin_worker.storage.script_connection import Call
from berlin_worker.storage.scripts import source

APPEND: Final = source("append", "publish")
_SHARDED: Final = source("append", "spublish", first="append_next")


def script(*, one_slot: bool) -> str:
    """Return the text of the script; with ``one_slot`` it publishes to sharded channels."""
    return _SHARDED if one_slot else APPEND


def calls(batch: Sequence[Batch], *, ttl_s: int, one_slot: bool) -> list[Call]:
    """Return the calls that append ``batch``: one, or with ``one_slot`` one for each job."""
    keys: list[str] = []
    args: list[Any] = []
    found: list[Call] = []
    for part in batch:
        log = part.log
        # The journal has checked the ID. This runs for each chunk if each batch holds one.
        slot = f"job:{{{log.job_id}}}"
        keys += (f"{slot}:state", f"{slot}:log")
        args += (slot if one_slot else f"job:{log.job_id}", log.owner, part.first_seq)
        args += (len(part.events), part.chunks, part.ending, ttl_s)
        args += part.events
        if one_slot:
            found.append(Call(_SHARDED, keys, args))
            keys, args = [], []
    return found if one_slot else [Call(APPEND, keys, args)]
