"""For how long the nodes of the store have answered (pure)."""

import math
from collections.abc import Collection
from typing import Final

_SILENCE_S: Final = 0.5
"""A node counts as away if the reply to a call takes longer."""


class Outages:
    """The last outage of each node; times are those of one clock, in seconds.

    While a node is away no worker can renew the leases that it holds. So a node is settled only
    after it has answered for ``lease_s``.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._since: dict[str, float | None] = {}
        self._asked: dict[str, float] = {}

    def serving(self, nodes: Collection[str], now: float) -> None:
        """Note which nodes have the jobs; a new node has taken over from one that failed."""
        for node in self._since.keys() - set(nodes):
            del self._since[node]
            self._asked.pop(node, None)
        known = bool(self._since)
        for node in nodes:
            self._since.setdefault(node, now if known else -math.inf)

    def asked(self, node: str, now: float) -> None:
        """Note that a call to ``node`` is under way."""
        self._asked.setdefault(node, now)

    def answered(self, node: str, now: float) -> None:
        """Note that ``node`` has answered the call."""
        self._asked.pop(node, None)
        if self._since.get(node, -math.inf) is None:
            self._since[node] = now

    def failed(self, node: str) -> None:
        """Note that ``node`` has not answered."""
        self._asked.pop(node, None)
        self._since[node] = None

    def settled(self, node: str, now: float) -> bool:
        """Return whether workers had the time to renew each lease at ``node``."""
        since = self._since.get(node, -math.inf)
        if now - self._asked.get(node, now) > _SILENCE_S:
            return False
        return since is not None and now - since >= self._lease_s
