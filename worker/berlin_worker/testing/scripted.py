"""What both fake clients have in common."""

from collections.abc import Sequence

from berlin_schemas import Cancelled, Chunk, Completed, Event, Failed, PromptJob, Reset
from berlin_worker.client.values import Result
from berlin_worker.errors import JobFailed
from berlin_worker.testing.script import Answer, Reply, Script


class Scripted:
    """What a test says and asks, beside what the client does."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._script = Script(answer)

    def reply(self, *replies: Reply) -> None:
        """What the next submissions of new jobs get, in this order."""
        self._script.add(replies)

    def finish(self, job_id: str, reply: Reply = "") -> None:
        """Let a ``Pending`` job go on with ``reply`` to its end; raises ``KeyError``."""
        self._script.finish(job_id, reply)

    @property
    def submitted(self) -> "list[PromptJob]":
        """The jobs that were accepted, in order."""
        return [entry.job for entry in self._script.jobs.values()]

    def events_of(self, job_id: str) -> "list[Event]":
        """The events of a job so far; raises ``CursorExpired`` for an unknown one."""
        return self._script.after(job_id, 0)[0]


def result_of(events: Sequence[Event]) -> Result:
    """Return the text of a job that is over; raises ``JobFailed`` if it has not completed."""
    text: list[str] = []
    for event in events:
        match event:
            case Chunk():
                text.append(event.content)
            case Reset():
                text.clear()
            case Completed():
                return Result("".join(text), event.finish_reason, event.timings, event.usage)
            case Failed() | Cancelled():
                raise JobFailed(event)
    raise AssertionError("the events that the test scripted have no terminal one")


def late(job_id: str, timeout_s: float | None) -> TimeoutError:
    """Return the error of a job that was not over in time."""
    message = f"job {job_id} was not over after {timeout_s} s"
    return TimeoutError(f"{message}: it goes on; wait again, or cancel it")
