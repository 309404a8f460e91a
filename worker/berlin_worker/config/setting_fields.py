"""How a field of the settings is declared."""

from typing import Annotated, Any

from pydantic import Field

Seconds = Annotated[float, Field(ge=0.001, le=31_536_000, allow_inf_nan=False)]
Short = Annotated[float, Field(ge=0.001, le=3600, allow_inf_nan=False)]
"""Seconds until lost jobs are found; the scripts ignore a lease of more than a day."""
Count = Annotated[int, Field(gt=0, le=10**12)]
Name = Annotated[str, Field(max_length=128)]
Ttl = Annotated[int, Field(gt=0, le=315_360_000)]
"""Seconds until Redis removes a key; Redis refuses a number that is too large."""


def env(variable: str, default: Any, description: str, *, private: bool = False) -> Any:
    """Return a field read from ``variable``; a ``private`` one may hold a secret: no ``repr``."""
    return Field(default, validation_alias=variable, description=description, repr=not private)
