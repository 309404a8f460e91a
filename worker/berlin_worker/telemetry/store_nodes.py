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
        """The node has replied to the calls that were sent to it together."""
        self.calls.of(self._label(node)).observe(took_s)

    def failed(self, node: str, error: BaseException) -> None:
        """The node has not replied, or has refused or redirected a call."""
        self.errors.add(self._label(node), type(error).__name__)

    def connected(self, node: str) -> None:
        """A connection to the node was made."""
        label = self._label(node)
        self.connections.add(label)
        # At 0 from the start: a rate sees the first increase.
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
"""What is given to connections that may be observed."""
