"""A plain model of one job in the store: what claims, appends and releases must lead to."""


class Model:
    """What the record of one job should say, in the words of the contract."""

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
        """The claim's status; begins the attempt of ``owner`` if it is ``claimed``."""
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

    def owned_by(self, owner):
        return self.status == "running" and self.owner == owner
