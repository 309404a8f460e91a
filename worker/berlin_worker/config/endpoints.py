"""The list of further OpenAI-compatible endpoints, WORKER_ENDPOINTS. Pure."""

import re
from collections.abc import Mapping
from typing import Final, Literal

from berlin_worker.config import urls
from berlin_worker.errors import SettingsError

SETTING: Final = "WORKER_ENDPOINTS"
PREFIX: Final = "WORKER_ENDPOINT_"
Kind = Literal["KEY", "MODEL", "PROXY"]
KINDS: Final[tuple[Kind, ...]] = ("KEY", "MODEL", "PROXY")
"""The parts of an endpoint that may have a variable."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_FORM: Final = "name=https://host/v1, comma-separated"


def variable(kind: Kind, name: str) -> str:
    """Return the variable of an endpoint's key, model or proxy: capitals, and ``_`` for ``-``."""
    return f"{PREFIX}{kind}_{name.upper().replace('-', '_')}"


def parse(listed: str) -> Mapping[str, str]:
    """Return the URL of each endpoint, by its name.

    Raises ``SettingsError``, without the URL, for an entry that cannot be used, and for two
    names that share their variables.
    """
    found: dict[str, str] = {}
    variables: dict[str, str] = {}
    for place, entry in enumerate(filter(None, map(str.strip, listed.split(","))), start=1):
        name, equals, url = (part.strip() for part in entry.partition("="))
        if not equals or not _NAME.fullmatch(name):
            message = f"{SETTING}: entry {place} must be of the form {_FORM}; a name has letters, "
            raise SettingsError(message + "digits, - and _, and begins with a letter")
        key = variable("KEY", name)
        if key in variables:
            message = f"{SETTING}: {variables[key]} and {name} share the variable {key}"
            raise SettingsError(f"{message}: rename one")
        variables[key] = name
        found[name] = urls.api(url, f"{SETTING} ({name})")
    return found


def variables_of(listed: str) -> set[str]:
    """Return the variables that the entries of ``listed`` may have, even of unusable entries."""
    names = [entry.partition("=")[0].strip() for entry in listed.split(",") if entry]
    return {variable(kind, name) for kind in KINDS for name in names}
