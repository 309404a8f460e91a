"""How a field of the settings is declared."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field
from pydantic.fields import FieldInfo

from berlin_worker.errors import SettingsError

Seconds = Annotated[float, Field(ge=0.001, le=31_536_000, allow_inf_nan=False)]
Short = Annotated[float, Field(ge=0.001, le=3600, allow_inf_nan=False)]
"""Seconds until lost jobs are found; the scripts ignore a lease of more than a day."""
Count = Annotated[int, Field(gt=0, le=10**12)]
Name = Annotated[str, Field(max_length=128)]
Ttl = Annotated[int, Field(gt=0, le=315_360_000)]
"""Seconds until Redis removes a key; Redis refuses a number that is too large."""

_UNUSABLE: Final = re.compile("[\x00\ud800-\udfff]")
"""NUL, and bytes that are no UTF-8, as Python shows them."""


def given(
    environ: Mapping[str, str], fields: Mapping[str, FieldInfo], prefix: str
) -> dict[str, str]:
    """Return the variables that are set; an empty one counts as not set, as in compose files.

    Raises ``SettingsError`` if one of ``fields``, or one with ``prefix``, is no text.
    """
    names = {field.validation_alias for field in fields.values()}
    found = {name: value for name, value in environ.items() if value != ""}
    for name, value in found.items():
        if (name in names or name.startswith(prefix)) and _UNUSABLE.search(value):
            raise SettingsError(f"{name}: it has a NUL character, or bytes that are no UTF-8")
    return found


def env(variable: str, default: Any, description: str, *, private: bool = False) -> Any:
    """Return a field read from ``variable``; a ``private`` one may hold a secret: no ``repr``."""
    return Field(default, validation_alias=variable, description=description, repr=not private)
