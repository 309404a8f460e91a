"""The fields of a job object, as keyword arguments of the client's methods."""

from typing import Any, Literal, TypedDict

from berlin_schemas import Fallback


class JobFields(TypedDict, total=False):
    """Fields of a job besides its messages; see :class:`~berlin_schemas.PromptJob`.

    A type checker finds a misspelt name; at run time :class:`~berlin_schemas.InvalidJob` names it.
    """

    provider: str
    model: str
    options: dict[str, Any]
    fallbacks: list[dict[str, Any] | Fallback]
    proxy: str | None
    deadline_s: float
    first_chunk_timeout_s: float
    idle_timeout_s: float
    on_interrupt: Literal["restart", "fail", "keep"]
    tenant: str | None
    metadata: dict[str, Any]
