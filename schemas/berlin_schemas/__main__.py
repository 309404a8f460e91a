"""``python -m berlin_schemas`` prints the contract as JSON Schema, for other languages.

A job object is ``#/$defs/PromptJob``; an event is ``#/$defs/Event``.
"""

import json
import sys
from typing import Any

from pydantic import TypeAdapter

from berlin_schemas.events import EVENT
from berlin_schemas.jobs import PromptJob


def json_schema() -> dict[str, Any]:
    """Return one JSON Schema document (draft 2020-12) with all definitions of the contract."""
    places, document = TypeAdapter.json_schemas(
        [("job", "validation", TypeAdapter(PromptJob)), ("event", "validation", EVENT)],
        title="Berlin Worker, wire contract version 1",
    )
    document["$defs"]["Event"] = places["event", "validation"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | document


if __name__ == "__main__":
    json.dump(json_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
