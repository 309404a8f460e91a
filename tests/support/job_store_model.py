"""A plain model of one job in the store: the results of claims, appends and releases."""


class Model:
    """What the record of one job must hold, by the contract."""

    def __init__(self):
        self.status = None
        self.attempt = 0
        self.failed_attempts = 0
        self.lease_expired = False
        self.cancel_reason = ""
        self.log = []
        self.log_broken = False

    def claim(self, held, only_queued):
        """Return the status of a claim; begin the attempt if it is ``claimed``."""
        if self.status == "over":
            return "finished"
        if only_queued and self.status != "queued":
            return "not_queued"
        if self.status == "running":
            if held != self.attempt and not self.lease_expired:
                return "leased"
            self.failed_attempts += 1
        elif held:
            return "leased"
        self.status = "running"
        if self.log_broken:
            self.log, self.log_broken = [], False
        self.attempt += 1
        self.lease_expired = False
        return "claimed"

    def owned_by(self, attempt):
        return self.status == "running" and self.attempt == attempt
