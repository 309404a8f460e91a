"""The common part of both fake clients."""

from berlin_schemas import Event, PromptJob
from berlin_worker.testing.script import Answer, Reply, Script


class Scripted:
    """Methods with which a test scripts answers and reads jobs, beside those of the client."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._script = Script(answer)

    def reply(self, *replies: Reply) -> None:
        """Add replies for the next submissions of new jobs, in this order."""
        self._script.add(replies)

    def finish(self, job_id: str, reply: Reply = "") -> None:
        """Let a ``Pending`` job go on with ``reply`` to its end.

        Raises ``KeyError`` for an unknown job, and ``ValueError`` for one that is over.
        """
        self._script.finish(job_id, reply)

    @property
    def submitted(self) -> list[PromptJob]:
        """The jobs that were accepted, in order."""
        return [entry.job for entry in self._script.jobs.values()]

    def events_of(self, job_id: str) -> list[Event]:
        """Return the events of a job so far; raises ``CursorExpired`` for an unknown one."""
        return self._script.after(job_id, 0)[0]
