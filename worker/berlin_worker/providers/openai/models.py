"""A server's list of models. Pure."""

from pydantic_core import from_json

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError


def names(data: bytes) -> list[str]:
    """Return the names in a body; raises ``JobError(BAD_CHUNK)`` for what is no list of models."""
    try:
        value: object = from_json(data)
    except ValueError:
        value = None
    listed = value.get("data") if isinstance(value, dict) else value
    if listed is None and isinstance(value, dict) and value.get("object") == "list":
        return []  # Ollama without a model
    if not isinstance(listed, list):
        message = "the upstream answered with no list of models: check the base URL"
        raise JobError(ErrorCode.BAD_CHUNK, message)
    ids = (model.get("id") for model in listed if isinstance(model, dict))
    return [name for name in ids if isinstance(name, str)]
