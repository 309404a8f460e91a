"""A plain model of one job in the store: the results of claims, appends and releases."""

import redis

from berlin_schemas import names


class Model:
    """What the record of one job must hold, by the contract."""

    def __init__(self):
        self.status = None
        self.attempt = 0
        self.owner = ""
        self.failed_attempts = 0
        self.lease_expired = False
        self.cancel_reason = ""
        self.log = []
        self.log_broken = False

    def claim(self, owner, held, only_queued):
        """Return the status of a claim; begin the attempt of ``owner`` if it is ``claimed``."""
        if self.status == "over":
            return "finished"
        if only_queued and self.status != "queued":
            return "not_queued"
        if self.status == "running":
            if held != self.owner and not self.lease_expired:
                return "leased"
            self.failed_attempts += 1
        elif held:
            return "leased"
        self.status = "running"
        if self.log_broken:
            self.log, self.log_broken = [], False
        self.attempt += 1
        self.owner = owner
        self.lease_expired = False
        return "claimed"

    @property
    def unfinished(self):
        return self.status in {"running", "queued"}

    def owned_by(self, owner):
        return self.status == "running" and self.owner == owner


def copied(url, job_id):
    """Record and log of a job: for each key its TTL in ms and its value (``None``: no key)."""
    with redis.Redis.from_url(url) as client:
        keys = (names.state_key(job_id), names.log_key(job_id))
        return {key: (max(client.pttl(key), 0), client.dump(key)) for key in keys}


def restore(url, keys):
    """Undo all changes since :func:`copied`."""
    with redis.Redis.from_url(url) as client:
        for key, (ttl_ms, value) in keys.items():
            client.delete(key)
            if value is not None:
                client.restore(key, ttl_ms, value)


def spoil_log(url, key, kind, *, last):
    """Write to a log as no script of ours does: another type, or an entry that is ahead."""
    with redis.Redis.from_url(url) as client:
        if kind == "string":
            client.set(key, "garbage", ex=100)
        else:
            client.xadd(key, {"garbage": 1}, id=f"{last + 100}-0")
