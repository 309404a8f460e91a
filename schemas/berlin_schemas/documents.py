"""The contract as documents for other languages: JSON Schemas and an AsyncAPI document. Pure.

The schemas are generated from the models, the names from :mod:`berlin_schemas.names`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import TypeAdapter

from berlin_schemas import events, names
from berlin_schemas.jobs import PromptJob
from berlin_schemas.messages import (
    Call,
    CancelRequest,
    DeadLetter,
    JobRecord,
    LogEntry,
    QueueMessage,
)

Document = dict[str, Any]

CONTRACT: Final = "1.1"
"""Version of the contract. The events' ``v`` is its first number; the second counts additions."""
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ADAPTERS: Final[Mapping[str, TypeAdapter[Any]]] = {
    "job": TypeAdapter(PromptJob),
    "event": events.EVENT,
    "record": TypeAdapter(JobRecord),
    "control": TypeAdapter(CancelRequest),
    "message": TypeAdapter(QueueMessage),
    "call": TypeAdapter(Call),
    "log-entry": TypeAdapter(LogEntry),
    "dead-letter": TypeAdapter(DeadLetter),
}
"""Name of each JSON Schema: the type that it describes."""
EVENTS: Final = (
    events.Started,
    events.Chunk,
    events.Reasoning,
    events.ToolCall,
    events.Reset,
    events.Completed,
    events.Failed,
    events.Cancelled,
)
_REF: Final = "#/components/schemas/{model}"


def as_text(document: Document) -> str:
    """Return the text of a document as it is committed."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def json_schema(name: str, adapter: TypeAdapter[Any]) -> Document:
    """Return the JSON Schema (draft 2020-12) of one type, with its definitions."""
    schema: Document = _everywhere(adapter.json_schema(), _for_readers)
    title = f"Berlin Worker, contract {CONTRACT}: {name}"
    return {"$schema": DIALECT} | schema | {"title": title}


def asyncapi() -> Document:
    """Return the AsyncAPI 3.0 document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Berlin Worker",
            "version": CONTRACT,
            "description": (
                "Celery jobs in, gap-free event streams out over Redis. "
                "The operations are those of the worker: it receives jobs and sends events."
            ),
        },
        "defaultContentType": "application/json",
        "servers": {
            "redis": _server("redis", "127.0.0.1:6379", "One Redis, or its Sentinels."),
            "cluster": _server("redis", "127.0.0.1:7000", "A Redis Cluster: events and logs."),
            "rabbitmq": _server("amqp", "127.0.0.1:5672", "Another broker of the queue."),
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": _messages(),
            "schemas": _component_schemas(),
        },
    }


def _server(protocol: str, host: str, description: str) -> Document:
    return {"host": host, "protocol": protocol, "description": description}


def _name(model: type[object]) -> str:
    return model.__name__[0].lower() + model.__name__[1:]


def _channel(
    address: str, messages: list[str], servers: list[str], description: str, **more: Any
) -> Document:
    return {
        "address": address,
        "description": description,
        "servers": [{"$ref": f"#/servers/{name}"} for name in servers],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        **more,
    }


def _channels() -> Document:
    every_event = [_name(model) for model in EVENTS]
    plain = {"job_id": {"description": "The job ID: 1 to 128 of A-Z a-z 0-9 _ -."}}
    # An address cannot have literal braces: AsyncAPI reads them as a parameter.
    braced = {"slot": {"description": "The job ID in braces, literally.", "examples": ["{8c1e}"]}}
    every, one = ["redis", "cluster"], ["redis"]
    return {
        "prompts": _channel(
            names.QUEUE,
            ["job"],
            ["redis", "rabbitmq"],
            "The queue: a Redis list, or a queue of RabbitMQ.",
            bindings={"amqp": {"is": "queue", "queue": {"name": names.QUEUE, "durable": True}}},
        ),
        "events": _channel(
            "job:{job_id}",
            every_event,
            one,
            "Events of one job (SUBSCRIBE). Read the log first, and after a gap in seq.",
            parameters=plain,
        ),
        "shardedEvents": _channel(
            "job:{slot}",
            every_event,
            ["cluster"],
            "Events of one job on a Redis Cluster (SSUBSCRIBE).",
            parameters=braced,
        ),
        "log": _channel(
            "job:{slot}:log",
            ["logEntry"],
            every,
            "Stream of all events of one job (XRANGE); the ID of an entry is <seq>-0.",
            parameters=braced,
        ),
        "record": _channel(
            "job:{slot}:state", ["record"], every, "Hash of one job.", parameters=braced
        ),
        "control": _channel(
            names.CONTROL_CHANNEL,
            ["cancelRequest"],
            every,
            "Cancellations (PUBLISH), after HSET of the field cancel of the record.",
        ),
        "deadLetters": _channel(
            names.DEAD_LETTERS,
            ["deadLetter"],
            every,
            "Stream of what could not run.",
        ),
    }


def _operations() -> Document:
    actions = {
        "receiveJob": ("receive", "prompts", "Take a job from the queue."),
        "publishEvent": ("send", "events", "Publish an event, with the same bytes in the log."),
        "publishShardedEvent": ("send", "shardedEvents", "Publish an event on a Redis Cluster."),
        "appendEvent": ("send", "log", "Append an event to the log of its job."),
        "keepRecord": ("send", "record", "Write the status of a job."),
        "receiveCancelRequest": ("receive", "control", "Cancel a job."),
        "addDeadLetter": ("send", "deadLetters", "Keep what could not run."),
    }
    return {
        name: {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}
        for name, (action, channel, summary) in actions.items()
    }


def _messages() -> Document:
    made = {_name(model): _message(model.__name__) for model in EVENTS}
    return made | {
        "job": {
            "name": "Job",
            "summary": "A call of the task worker.generate, in Celery's task protocol 2.",
            "headers": {"$ref": _REF.format(model="TaskHeaders")},
            "payload": {"$ref": _REF.format(model="Call")},
            "correlationId": {
                "location": "$message.header#/id",
                "description": "The job ID, which is Celery's task ID.",
            },
        },
        "logEntry": _message("LogEntry"),
        "record": _message("JobRecord"),
        "cancelRequest": _message("CancelRequest"),
        "deadLetter": _message("DeadLetter"),
    }


def _message(model: str) -> Document:
    return {"name": model, "payload": {"$ref": _REF.format(model=model)}}


def _component_schemas() -> Document:
    places, document = TypeAdapter.json_schemas(
        [
            *((model, "validation", TypeAdapter(model)) for model in EVENTS),
            *(
                (name, "validation", adapter)
                for name, adapter in ADAPTERS.items()
                if name != "event"  # AsyncAPI has a message for each event in place of the union
            ),
        ],
        ref_template=_REF,
    )
    schemas = document["$defs"] | {"Call": places["call", "validation"]}
    return {
        name: _everywhere(_everywhere(schema, _for_readers), _as_draft_7)
        for name, schema in sorted(schemas.items())
    }


def _everywhere(schema: Any, change: Callable[[Document], Document]) -> Any:
    """Return the schema with every schema in it changed, the inner ones first."""
    if isinstance(schema, list):
        return [_everywhere(item, change) for item in schema]
    if isinstance(schema, dict):
        return change({name: _everywhere(item, change) for name, item in schema.items()})
    return schema


def _for_readers(schema: Document) -> Document:
    """Return a schema with constant fields required, and with a description in Markdown.

    A constant field has a default in Python; on the wire it is never missing.
    """
    if isinstance(text := schema.get("description"), str):
        schema["description"] = text.replace("``", "`")
    properties = schema.get("properties")
    if isinstance(properties, dict):
        needed = set(schema.get("required", ()))
        needed |= {name for name, each in properties.items() if "const" in each}
        if needed:
            schema["required"] = [name for name in properties if name in needed]
    return schema


def _as_draft_7(schema: Document) -> Document:
    """Return a schema in AsyncAPI's dialect: there ``items`` lists the items of a tuple."""
    if isinstance(items := schema.pop("prefixItems", None), list):
        schema["items"] = items
    return schema
