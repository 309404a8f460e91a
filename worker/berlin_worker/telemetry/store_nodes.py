"""Latency and failures of the servers of the event store, by node. Pure."""

from typing import Final

from berlin_worker.telemetry.counts import CALL_SECONDS, Counts, Histograms

NODES_MAX: Final = 64
_OTHER: Final = "other"


class StoreNodes:
    """Counts calls of scripts by node, ``host:port``; nodes after the first 64 are ``other``."""

    def __init__(self) -> None:
        self.calls = Histograms(CALL_SECONDS)  # node
        self.errors = Counts()  # node, error
        self.connections = Counts()  # node
        self._known: set[str] = set()

    def called(self, node: str, took_s: float) -> None:
        """Count a reply of the node to all calls that were sent to it together."""
        self.calls.of(self._label(node)).observe(took_s)

    def failed(self, node: str, error: BaseException) -> None:
        """Count a call that the node has not answered, or has refused or redirected."""
        self.errors.add(self._label(node), type(error).__name__)

    def connected(self, node: str) -> None:
        """Count a new connection to the node."""
        label = self._label(node)
        self.connections.add(label)
        # These begin at 0, so that a rate includes their first increase.
        self.calls.of(label)
        self.errors.add(label, "ConnectionError", n=0)

    def _label(self, node: str) -> str:
        if node in self._known:
            return node
        if len(self._known) >= NODES_MAX:
            return _OTHER
        self._known.add(node)
        return node


Observer = StoreNodes | None
"""The counters to which a connection reports, or ``None``."""
