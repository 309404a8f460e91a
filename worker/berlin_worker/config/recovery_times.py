"""Time constants of recovery after a lost worker, message or server.

They depend on each other; each inequality has its reason:

- ``RENEW_INTERVAL_S`` (2 s) is a third of ``LEASE_S``: a lease survives two renewals that fail.
- ``HUNG_S`` (2 s) and ``CUT_OFF_S`` (4 s) < ``LEASE_S`` (6 s): a worker that hangs, or cannot reach
  the event store, takes no more messages before other workers may take over its jobs.
- ``LEASE_S`` < ``VISIBILITY_TIMEOUT_S`` (8 s): when Redis delivers a lost worker's message again,
  the lease of its job is over, and the next worker need not wait for it.
- ``VISIBILITY_TIMEOUT_S`` < ``QUEUED_AGAIN_S`` (30 s): only if no delivery has come for long is the
  message of a waiting job held to be lost, and sent again.

``WORKER_LEASE_S`` and ``WORKER_RENEW_INTERVAL_S`` change the first two. With a lease longer than
the visibility timeout the next worker waits until the lease is over; no job is lost by it.
"""

from typing import Final

LEASE_S: Final = 6.0
"""For how long a worker has a job after each renewal; the default of ``WORKER_LEASE_S``."""
RENEW_INTERVAL_S: Final = 2.0
"""How often leases and the visibility of messages are renewed; the default of
``WORKER_RENEW_INTERVAL_S``."""
HUNG_S: Final = 2.0
"""An event loop that does not answer for longer gets no more work, and counts as dead."""
CUT_OFF_S: Final = 4.0
"""An event store that does not answer for longer gets no more jobs."""
VISIBILITY_TIMEOUT_S: Final = 8
"""Time (s) until Redis delivers a message again that no worker has acknowledged or renewed."""
QUEUED_AGAIN_S: Final = 30.0
"""How often the reaper looks at a job that waits, in case its message is lost."""
