"""State of the stand-in upstream between calls: issued tokens and ordered faults.

Not safe for threads: :class:`berlin_worker.embedded.upstream.Upstream` holds a lock.
"""

import secrets
import time
from collections import Counter
from dataclasses import dataclass

from berlin_worker.embedded.faults import Fault, Plan


@dataclass(slots=True)
class _Issued:
    at: float
    uses: int = 0


class IssuedTokens:
    """Issued tokens, valid for ``max_age_s`` seconds and ``max_uses`` calls (``None``: any)."""

    def __init__(self, max_age_s: float | None, max_uses: int | None) -> None:
        self._max_age_s = max_age_s
        self._max_uses = max_uses
        self._issued: dict[str, _Issued] = {}

    def issue(self) -> str:
        """Issue a token; older ones stay valid."""
        token = secrets.token_urlsafe(24)
        self._issued[token] = _Issued(time.monotonic())
        return token

    def use(self, token: str) -> bool:
        """Count one use of ``token``; return whether it is valid for it."""
        issued = self._issued.get(token)
        if issued is None:
            return False
        if self._max_age_s is not None and time.monotonic() - issued.at > self._max_age_s:
            return False
        issued.uses += 1
        return self._max_uses is None or issued.uses <= self._max_uses

    def expire(self) -> None:
        """Make every issued token invalid."""
        self._issued.clear()


class OrderedFaults:
    """Faults ordered for future calls, and a count for each fault that a prompt carries."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int | None]] = []
        self._applied: Counter[tuple[str, str]] = Counter()

    def add(self, fault: Fault) -> None:
        """Apply ``fault`` to the next ``fault.times`` calls."""
        self._left.append((fault, fault.times))

    def clear(self) -> None:
        """Remove all ordered faults."""
        self._left.clear()

    def apply(self, plan: Plan) -> Plan:
        """Return ``plan`` with the faults ordered for this call; each order counts down."""
        for fault, _ in self._left:
            plan = fault.apply(plan)
        counted = [(fault, left and left - 1) for fault, left in self._left]
        self._left = [(fault, left) for fault, left in counted if left != 0]
        return plan

    def brought(self, plan: Plan, prompt: str, faults: list[Fault]) -> Plan:
        """Return ``plan`` with the faults of its prompt, each as often as the prompt asks for."""
        for fault in faults:
            fault_of_prompt = (prompt, str(fault))
            if fault.times is None:
                plan = fault.apply(plan)
            elif self._applied[fault_of_prompt] < fault.times:
                self._applied[fault_of_prompt] += 1
                plan = fault.apply(plan)
        return plan
