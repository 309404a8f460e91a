"""A store and a holder for tests of the leases."""

from berlin_worker.jobs.store import Overdue

QUEUED_MS = 1000


class FakeLeaseStore:
    """A store whose answers the test sets."""

    def __init__(self):
        self.replies = {}
        self.renewals = []
        self.overdue = {}
        self.reaped = []
        self.requeued_jobs = []
        self.away = False
        self.turns = []
        self.turn_of_another = False
        self.up_for_s = 3600.0
        self.job = b"{}"
        self.discarded = []

    async def discard(self, job_id, reason, detail, message):
        self.discarded.append((job_id, reason, detail, message))

    async def renew(self, held, *, index):
        if self.away:
            raise ConnectionError("away")
        self.renewals.append(list(held))
        return [self.replies.get(job_id, "renewed") for job_id, _ in held]

    async def up_s(self):
        return self.up_for_s

    async def update_index(self):
        if self.away:
            raise ConnectionError("away")

    heal_index = update_index

    async def take_turn(self, for_s):
        self.turns.append(for_s)
        return not self.turn_of_another

    async def due(self, limit):
        if self.away:
            raise ConnectionError("away")
        return list(self.overdue)[:limit]

    async def requeued(self, job_id):
        self.requeued_jobs.append(job_id)

    async def reap(self, job_id, *, again_running_s, again_queued_s, watermark_ms):
        self.reaped.append(job_id)
        was = self.overdue.pop(job_id)
        if was == "taken" or (was == "queued" and watermark_ms <= QUEUED_MS):
            return None
        return Overdue(job_id, was, self.job)


class FakeHolder:
    def __init__(self, owner="w/1"):
        self.owner = owner
        self.received = []

    def lost(self):
        self.received.append("lost")

    def cancel(self, reason):
        self.received.append(reason)
