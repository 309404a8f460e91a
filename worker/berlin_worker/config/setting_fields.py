"""How a field of the settings is declared."""

from typing import Annotated, Any

from pydantic import Field

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


def env(variable: str, default: Any, description: str, *, private: bool = False) -> Any:
    """Return a field read from ``variable``; a ``private`` one may hold a secret: no ``repr``."""
    return Field(default, validation_alias=variable, description=description, repr=not private)
