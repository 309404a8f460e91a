"""Everything on the wire that is neither a job object nor an event, as models.

The message of a queue, the record of a job, the control message, and the entries of the streams.
The worker parses these by faster code of its own. The models describe them for other languages:
:mod:`berlin_schemas.documents` generates the schemas from them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from berlin_schemas.events import JobId
from berlin_schemas.jobs import PromptJob

NonNegative = Annotated[int, Field(ge=0)]


class _Open(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class FollowUps(_Open):
    """What Celery would run after the task. Links, chains, chords and groups are refused."""

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


class TaskHeaders(_Open):
    """Headers of a message in Celery's task protocol 2. ``id`` is the job ID.

    ``lang`` and the further headers of Celery are optional: ``eta``, ``expires``, ``timelimit``,
    and those of a trace (``traceparent``).
    """

    task: Literal["worker.generate"]
    id: JobId
    lang: str = "py"


class DeliveryInfo(_Open):
    """How a message was routed; Celery's producers write it."""

    exchange: str
    routing_key: str


class Properties(_Open):
    """Properties of a message. ``body_encoding`` is ``base64`` for the messages of kombu."""

    delivery_tag: str
    delivery_info: DeliveryInfo
    body_encoding: str | None = None
    correlation_id: str | None = None


class QueueMessage(_Open):
    """One entry of the Redis list ``prompts``, as kombu writes it by ``LPUSH``.

    ``body`` is the call as JSON text, in base64 if ``body_encoding`` says so: an array of the
    positional arguments (one job object), the keyword arguments (none), and the follow-ups. On
    RabbitMQ headers and properties are those of AMQP, and the body is the call itself.
    """

    body: str
    headers: TaskHeaders
    properties: Properties
    content_type: Annotated[str, Field(alias="content-type")] = "application/json"
    content_encoding: Annotated[str, Field(alias="content-encoding")] = "utf-8"


Call = tuple[tuple[PromptJob], Annotated[dict[str, Any], Field(max_length=0)], FollowUps]
"""The decoded body of a message: arguments, keyword arguments, follow-ups."""


class LogEntry(_Entry):
    """Fields of an entry of ``job:{<job_id>}:log``. Its ID is ``<seq>-0``.

    ``event`` is the event as JSON text: the same bytes as on the channel.
    """

    event: str


class JobRecord(_Open):
    """The hash ``job:{<job_id>}:state``. Every further field is internal.

    A producer or reader sets ``cancel`` to ``1`` to cancel the job.
    """

    status: Literal["queued", "running", "completed", "failed", "cancelled"] | None = None
    cancel: str | None = None


class CancelRequest(_Entry):
    """A message of the channel ``job-control``.

    ``reason`` goes into the ``cancelled`` event, cut to 200 characters. ``fleet`` is the number of
    the database whose workers shall act; without it the record with the field ``cancel`` decides.
    """

    cancel: JobId
    reason: str | None = None
    fleet: NonNegative | None = None


class DeadLetter(_Entry):
    """Fields of an entry of ``worker:dead``: a job or a message that could not run.

    ``ts`` is Unix time in seconds. ``job_id`` is empty if the message had no usable one. The entry
    has ``job``, a job object as JSON that can be replayed, or else ``message``, the raw message.
    """

    ts: str
    reason: str
    job_id: str
    job: str | None = None
    message: str | None = None
