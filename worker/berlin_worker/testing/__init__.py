"""For tests of services that use Berlin Worker: no Redis, no upstream, nothing to start.

- :mod:`berlin_worker.testing.events` builds events, one by one or a whole stream.
- :class:`FakeClient` and :class:`FakeAsyncClient` have the methods of the clients and give
  scripted answers.
- :class:`InProcessWorker` is a worker in a thread, on a fakeredis of its own, whose provider
  repeats the prompt; the real clients work on it. Needs the extra ``embedded``. With
  ``InProcessWorker({"mine": scripted(...)})`` the provider ``mine`` answers with text,
  reasoning and tool calls of the test's own.
- :mod:`berlin_worker.testing.plugin` has pytest fixtures:
  ``pytest_plugins = ["berlin_worker.testing.plugin"]``.
- :class:`berlin_worker.testing.conformance.ProviderConformance` tests a provider of another
  package.

Only the plugin imports pytest.
"""

from berlin_worker.testing import events
from berlin_worker.testing.fakes import FakeAsyncClient, FakeClient
from berlin_worker.testing.in_process import InProcessWorker
from berlin_worker.testing.provider import scripted
from berlin_worker.testing.script import Failure, Pending

__all__ = [
    "Failure",
    "FakeAsyncClient",
    "FakeClient",
    "InProcessWorker",
    "Pending",
    "events",
    "scripted",
]
